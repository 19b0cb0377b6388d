"""Admission of requests by their memory and their work.

A request holds memory from the time when its first part arrives until it is answered, and a place with its
work while it waits and computes. What cannot be served here at all is invalid. What has no room now is
refused, if it has arrived; the items of a stream wait instead, which gRPC's flow control passes on to the
client.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from lemmse.contract.errors import DeadlineExceeded, ResourceExhausted

__all__ = ["Memory", "Queue", "Upload"]

_OF_UPLOADS = 0.5
"""Share of the memory that requests which have arrived in part may hold."""
_OF_CLIENT = 0.25
"""Share of the memory that such requests of one client may hold, if there are several."""
_RETRY = 1.0
"""Time in seconds after which to try again for memory, whose release cannot be predicted."""
_LEAST, _MOST = 0.1, 60.0
"""Least and greatest time in seconds after which to try again for a place."""


class Memory:
    """The memory of all requests, in bytes. Use it in the event loop.

    Parameters
    ----------
    total : int
        Largest sum.
    patience : float
        Time in seconds after which a request that has arrived in part may have to make room.
    """

    def __init__(self, total: int, patience: float) -> None:
        self._total, self._patience = total, patience
        self._used = 0
        self._partial: dict[Upload, None] = {}
        self._waiting: deque[tuple[Upload, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._used

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """Hold memory for a request that has arrived.

        Raises
        ------
        ResourceExhausted
            There is not enough now.
        """
        if self._used + nbytes > self._total:
            raise ResourceExhausted(
                f"the requests that this server has take {self._used} of {self._total} bytes, and this one "
                f"would take {nbytes}; try again later",
                retry_after=_RETRY,
            )
        self._used += nbytes
        try:
            yield
        finally:
            self._used -= nbytes
            self._grant()

    async def take(self, client: str, nbytes: int, *, whole: bool) -> "Upload":
        """Wait for the memory of a request of a stream; it is held until `Upload.give`."""
        upload = Upload(self, client, nbytes, whole)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((upload, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._waiting.remove((upload, granted))
                self._grant()
            else:
                self._give(upload)
            raise
        return upload

    def _arrived(self, upload: "Upload") -> None:
        upload.whole = True
        self._partial.pop(upload, None)
        self._grant()

    def _give(self, upload: "Upload") -> None:
        self._partial.pop(upload, None)
        self._used -= upload.nbytes
        self._grant()

    def _require_patience(self, upload: "Upload") -> None:
        age = asyncio.get_running_loop().time() - upload.began
        if self._waiting and age > self._patience:
            raise DeadlineExceeded(
                f"expected the whole item within {self._patience:g} seconds, as others wait for its memory"
            )

    def _grant(self) -> None:
        """Grant memory to those who wait, in their order; one whose client has its share is passed over."""
        partial = sum(upload.nbytes for upload in self._partial)
        for waiting in list(self._waiting):
            upload, granted = waiting
            if self._used + upload.nbytes > self._total:
                return
            if granted.done() or (not upload.whole and self._has_its_share(upload.client, upload.nbytes)):
                continue
            if not upload.whole:
                partial += upload.nbytes  # also of one that has to wait: no smaller one overtakes it
                if partial > _OF_UPLOADS * self._total:
                    continue
                self._partial[upload] = None
                upload.began = asyncio.get_running_loop().time()
            self._waiting.remove(waiting)
            self._used += upload.nbytes
            granted.set_result(None)

    def _has_its_share(self, client: str, nbytes: int) -> bool:
        own = sum(upload.nbytes for upload in self._partial if upload.client == client)
        return own > 0 and own + nbytes > _OF_CLIENT * self._total


@dataclass(eq=False, slots=True)
class Upload:
    """The memory of an item of a stream."""

    memory: Memory
    """The memory of all requests."""
    client: str
    """Name of the client."""
    nbytes: int
    """Size, in bytes."""
    whole: bool
    """Whether the item has arrived."""
    began: float = 0.0
    """When the memory was granted, in the time of the event loop."""

    def arrived(self) -> None:
        """Note that the item has arrived."""
        self.memory._arrived(self)

    def give(self) -> None:
        """Return the memory."""
        self.memory._give(self)

    def require_patience(self) -> None:
        """Raise DeadlineExceeded if the item is late, and others wait for memory."""
        self.memory._require_patience(self)


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
