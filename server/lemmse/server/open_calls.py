"""The calls that are open, and which of them make room for others."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from lemmse.contract.errors import ResourceExhausted

__all__ = ["OpenCalls"]

_SILENT = 1.0
"""Time in seconds without a message after which a call may have to make room for another one."""
_RETRY = 1.0
"""Time in seconds after which to try again."""


class OpenCalls:
    """The open calls of some services.

    Parameters
    ----------
    most : int
        Largest number.
    reading : int
        Largest number of those that wait for a message.
    """

    def __init__(self, most: int, reading: int) -> None:
        self._most, self._most_reading = most, reading
        self._count = self._reading = 0
        self._silent: dict[asyncio.Timeout, float] = {}
        """The calls whose clients are silent, with the time since when, longest first."""

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count a call.

        Raises
        ------
        ResourceExhausted
            There are too many.
        """
        if self._count >= self._most and not self._end_silent():
            raise ResourceExhausted(
                f"the server already has {self._count} open calls; try again later", retry_after=_RETRY
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @property
    def crowded(self) -> bool:
        """Whether so many wait for a message that the others should do so only if they must."""
        return self._reading >= self._most_reading // 2

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a call that waits for a message.

        Raises
        ------
        ResourceExhausted
            Too many do.
        """
        if self._reading >= self._most_reading and not self._end_silent():
            raise ResourceExhausted(
                f"the server already waits for {self._reading} messages; try again later", retry_after=_RETRY
            )
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def add_silent(self, timeout: asyncio.Timeout) -> None:
        """Note that a client is silent from now on, whose call its timeout may end to make room."""
        self._silent[timeout] = asyncio.get_running_loop().time()

    def forget(self, timeout: asyncio.Timeout) -> None:
        """Note that a client is not silent, or that its call ends."""
        self._silent.pop(timeout, None)

    def _end_silent(self) -> bool:
        """End the call that has been silent for longest, if it was for a while, and return whether it was."""
        now = asyncio.get_running_loop().time()
        timeout, since = next(iter(self._silent.items()), (None, now))
        if timeout is None or now - since < _SILENT:
            return False
        del self._silent[timeout]
        timeout.reschedule(now)
        return True
