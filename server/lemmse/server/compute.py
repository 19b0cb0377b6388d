"""The compute pool and its bounded queue.

One answer uses all cores, so that answers are computed one after the other. The threads of gRPC decode,
submit and wait. Calls are limited here and not by gRPC, whose own limit would also reject health checks.
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
        self._free = BoundedSemaphore(self.places)
        self._pool = ThreadPoolExecutor(1, "compute", initializer=_use_threads, initargs=(threads,))

    @contextmanager
    def admit(self, on_end: Callable[[Callable[[], None]], bool]) -> Iterator["Place"]:
        """Yield a place in the queue for a call, which is occupied until the `with` block ends.

        Parameters
        ----------
        on_end : callable
            Registers a function to call when the call ends or is cancelled; returns False if it has already
            ended.

        Raises
        ------
        ResourceExhausted
            All places are occupied.
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
        """Wait for the running computation, and shut down the pool."""
        self._pool.shutdown()


class Place:
    """The place of one call in the queue; it runs one computation at a time."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._abandoned = Event()
        self._future: Future[Any] | None = None

    def run(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run a function in the pool, and return its result.

        Parameters
        ----------
        work : callable
            Called with a function that returns True once the work should stop.

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
        """Stop the running computation, or remove it from the queue."""
        self._abandoned.set()
        if self._future is not None:
            self._future.cancel()


def _use_threads(threads: int) -> None:
    """Set the numbers of threads of torch and FAISS, which are settings of the calling thread."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
