"""The compute pool, and the bounded queue in front of it.

One answer uses all cores, so answers are computed one after the other. Threads of gRPC decode, submit and
wait. Calls are counted here and not by gRPC, whose own limit would refuse health checks too.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import BoundedSemaphore, Event
from typing import Any, TypeVar

import faiss
import torch

from lemmse.contract.errors import Cancelled, ResourceExhausted

__all__ = ["Compute", "Place"]

T = TypeVar("T")


class Compute:
    """The compute pool.

    Parameters
    ----------
    threads : int
        Threads that one answer uses.
    queue : int
        Calls that may wait while one is computed.
    """

    def __init__(self, *, threads: int, queue: int) -> None:
        self.places = queue + 1
        self._free = BoundedSemaphore(self.places)
        self._pool = ThreadPoolExecutor(1, "compute", initializer=_use_threads, initargs=(threads,))

    @contextmanager
    def admit(self, on_end: Callable[[Callable[[], None]], bool]) -> Iterator["Place"]:
        """Yield the place of a call, which is taken until the block ends.

        Parameters
        ----------
        on_end : callable
            Registers a function to call when the call ends or is cancelled; False if that has happened
            already.

        Raises
        ------
        ResourceExhausted
            All places are taken.
        """
        if not self._free.acquire(blocking=False):
            raise ResourceExhausted(f"the server already has {self.places} calls to answer; try again later")
        try:
            place = Place(self._pool)
            if not on_end(place.abandon):
                place.abandon()
            yield place
        finally:
            self._free.release()

    def close(self) -> None:
        """Wait for the running computation and end the pool."""
        self._pool.shutdown()


class Place:
    """The place of one call in the queue; it computes one thing at a time."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._abandoned = Event()
        self._future: Future[Any] | None = None

    def run(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run a function in the pool and return its result.

        Parameters
        ----------
        work : callable
            Called with a function that returns whether to stop.

        Raises
        ------
        Cancelled
            The call has ended.
        """
        future = self._pool.submit(work, self._abandoned.is_set)
        self._future = future
        if self._abandoned.is_set():
            future.cancel()
        try:
            return future.result()
        except CancelledError as error:
            raise Cancelled("the call has ended") from error

    def abandon(self) -> None:
        """Stop the running computation, or take it out of the queue."""
        self._abandoned.set()
        if self._future is not None:
            self._future.cancel()


def _use_threads(threads: int) -> None:
    """Set the numbers of threads, which apply to the calling thread only."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
