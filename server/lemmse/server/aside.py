"""Short work of the event loop on large data, in threads of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Aside"]

T = TypeVar("T")

_SMALL = 64 << 10
"""Size in bytes up to which work is done at once: it takes less time than to pass it to a thread and back."""


class Aside:
    """Threads that decode, check and encode, so that the event loop does not wait.

    Parameters
    ----------
    threads : int
        Number of threads.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "call")

    async def run(self, nbytes: int, work: Callable[[], T]) -> T:
        """Return the result of a function of no arguments, which works on so many bytes."""
        if nbytes <= _SMALL:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
