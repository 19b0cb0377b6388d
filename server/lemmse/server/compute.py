"""The one pool that computes, and the bounded queue before it.

The mathematics uses all cores inside one answer, so answers are computed one after the other. Threads of
gRPC decode, submit and wait. Admission is counted here, in calls, and not by gRPC, whose own limit would
refuse health checks too.
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
        """Give a call its place, for as long as it lasts.

        Parameters
        ----------
        on_end : callable
            Registers what is to be called when nobody waits for the call any more; False when that is so
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
        """Wait for what is being computed and end the pool."""
        self._pool.shutdown()


class Place:
    """The place of one call; it computes one thing at a time."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._abandoned = Event()
        self._future: Future[Any] | None = None

    def run(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Wait for the pool to do some work.

        Parameters
        ----------
        work : callable
            Gets a function that says whether to stop.

        Raises
        ------
        Cancelled
            Nobody waits for the call any more.
        """
        future = self._pool.submit(work, self._abandoned.is_set)
        self._future = future
        if self._abandoned.is_set():
            future.cancel()
        try:
            return future.result()
        except CancelledError as error:
            raise Cancelled("the caller no longer waits") from error

    def abandon(self) -> None:
        """Stop what runs and take back what waits."""
        self._abandoned.set()
        if self._future is not None:
            self._future.cancel()


def _use_threads(threads: int) -> None:
    """Set the thread counts, which hold for the calling thread only."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
