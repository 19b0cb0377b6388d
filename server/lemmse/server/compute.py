"""The compute pool and its bounded queue.

One answer uses all cores, so that answers are computed one after the other, outside of the event loop.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import faiss
import torch

from lemmse.contract.errors import ResourceExhausted

__all__ = ["Compute", "Place"]

T = TypeVar("T")


class Compute:
    """The compute pool, which computes one answer at a time.

    Parameters
    ----------
    threads : int
        Number of threads that one answer uses.
    queue : int
        Largest number of calls that wait while one is computed.
    """

    def __init__(self, *, threads: int, queue: int) -> None:
        self.places = queue + 1
        self._taken = 0
        self._pool = ThreadPoolExecutor(1, "compute", initializer=_use_threads, initargs=(threads,))

    @contextmanager
    def admit(self) -> Iterator["Place"]:
        """Yield a place in the queue, which is occupied until the `with` block ends.

        Raises
        ------
        ResourceExhausted
            All places are occupied.
        """
        if self._taken == self.places:
            raise ResourceExhausted(f"the server already has {self.places} calls to answer; try again later")
        self._taken += 1
        try:
            yield Place(self._pool)
        finally:
            self._taken -= 1

    def close(self) -> None:
        """Wait for the running computation, and shut down the pool."""
        self._pool.shutdown()


class Place:
    """The place of one call in the queue; it runs one computation at a time."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    async def run(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run a function in the pool, and return its result; it is stopped if the caller is cancelled.

        Parameters
        ----------
        work : callable
            Called with a function that returns True once the work should stop.
        """
        stopped = Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, stopped.is_set)
        finally:
            stopped.set()


def _use_threads(threads: int) -> None:
    """Set the numbers of threads of torch and FAISS, which are settings of the calling thread."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
