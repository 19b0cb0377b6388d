"""Admission of requests by their work.

A request holds a place with its work while it waits and computes. What cannot be served here at all is
invalid. What has no place now is refused; the items of a stream wait instead.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lemmse.contract.errors import ResourceExhausted

__all__ = ["Queue"]

_LEAST, _MOST = 0.1, 60.0
"""Least and greatest time in seconds after which to try again for a place."""


@dataclass(eq=False, slots=True)
class _Request:
    """A request that waits or computes."""

    client: str
    work: float


class Queue:
    """The requests that wait or compute, and their work, in multiply-adds. Use it in the event loop.

    Parameters
    ----------
    places : int
        Largest number of requests; one client may have half of them.
    work : float
        Largest work that may be done before a request is answered. Since short requests do not wait for long
        ones, one of work w waits for the sum of min(w, w') over all others.
    rate : callable
        Returns the expected multiply-adds per second.
    """

    def __init__(self, places: int, work: float, rate: Callable[[], float]) -> None:
        self._places, self._work, self._rate = places, work, rate
        self._present: set[_Request] = set()
        self._waiting: dict[_Request, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self._present)

    @property
    def work(self) -> float:
        """Work of all requests."""
        return sum(request.work for request in self._present)

    @asynccontextmanager
    async def place(self, work: float, client: str, *, wait: bool) -> AsyncIterator[None]:
        """Hold a place for a request.

        Parameters
        ----------
        work : float
            Its expected work.
        client : str
            Name of the client.
        wait : bool
            Whether to wait for a place.

        Raises
        ------
        ResourceExhausted
            There is none, and `wait` is false.
        """
        request = _Request(client, work)
        if self._has_room(request):
            self._present.add(request)
        elif wait:
            await self._room(request)
        else:
            raise ResourceExhausted(
                f"the server already has {len(self)} requests to answer; try again later",
                retry_after=self._seconds_to_room(request),
            )
        try:
            yield
        finally:
            self._leave(request)

    async def _room(self, request: _Request) -> None:
        """Wait for a place, which is then taken."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[request] = granted
        try:
            await granted
        except asyncio.CancelledError:
            self._waiting.pop(request, None)
            self._leave(request)
            raise

    def _leave(self, request: _Request) -> None:
        self._present.discard(request)
        for waiting, granted in list(self._waiting.items()):
            if self._has_room(waiting) and not granted.done():
                del self._waiting[waiting]
                self._present.add(waiting)
                granted.set_result(None)

    def _has_room(self, request: _Request) -> bool:
        own = sum(other.client == request.client for other in self._present)
        few = len(self) < self._places and own < max(1, self._places // 2)
        return few and self._before(request) <= self._work

    def _before(self, request: _Request) -> float:
        """Return the work that may be done before a request is answered."""
        return sum(min(request.work, other.work) for other in self._present)

    def _seconds_to_room(self, request: _Request) -> float:
        """Return the expected time until there is a place."""
        least = min((other.work for other in self._present), default=0.0)
        excess = max(self._before(request) - self._work, least)
        return min(max(excess / self._rate(), _LEAST), _MOST)
