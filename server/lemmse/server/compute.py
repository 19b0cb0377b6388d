"""Computations outside of the event loop, one at a time, in turns.

One computation uses all cores, so that only one has its turn. Each runs in a thread of its own, and passes
the turn on when it polls whether it is cancelled, as it does after some tens of milliseconds of work.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock, Semaphore
from typing import Any, TypeVar, cast

import faiss
import torch

from lemmse.contract.errors import DeadlineExceeded
from lemmse.estimator.cancellation import Cancel
from lemmse.server.turns import MOST_BEGUN, Job, Turns

__all__ = ["Compute"]

T = TypeVar("T")

_TURN = 0.02
"""Time in seconds before which a turn does not end."""
_RATE = 5e9
"""Multiply-adds per second and thread that are expected before any were measured."""
_SHARE_OF_LAST = 0.2
"""Share that the last job has in the expected rate."""
_MEASURABLE = 0.05
"""Time in seconds below which a job says nothing about the rate."""


@dataclass(eq=False, slots=True, kw_only=True)
class _Job(Job):
    """A job and its thread."""

    work: Callable[[Cancel], Any]
    """The function to call."""
    cost: float
    """Its expected work, in multiply-adds."""
    loop: asyncio.AbstractEventLoop
    """The event loop of the caller."""
    done: asyncio.Future[Any] | None
    """What the caller waits for; None once it is settled."""
    turn: Semaphore = field(default_factory=lambda: Semaphore(0))
    """Released when its thread is to go on."""
    since: float = 0.0
    """Until when its time was counted, or when its turn began."""
    ended: bool = False
    """Whether its function has returned, or will not be called."""


class _Turn:
    """What the function of a job polls."""

    def __init__(self, compute: "Compute", job: _Job) -> None:
        self._compute, self._job = compute, job

    def __call__(self) -> bool:
        """Pass the turn on if it is over, wait for the next one, and return True if the job is abandoned."""
        return self._compute._poll(self._job)

    def is_due(self) -> bool:
        """Return whether the next poll may wait, return True or raise."""
        return self._compute._is_due(self._job)


class Compute:
    """Computations in turns.

    Parameters
    ----------
    threads : int
        Number of threads that one computation uses.
    max_seconds : float
        Largest time of one computation, in seconds, without the time in which it waits for its turn.
    """

    def __init__(self, *, threads: int, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._lock = Lock()
        self._turns: Turns[_Job] = Turns()
        self._current: _Job | None = None
        self._rate = _RATE * threads
        self._pool = ThreadPoolExecutor(MOST_BEGUN, "compute", initializer=_use_threads, initargs=(threads,))

    @property
    def rate(self) -> float:
        """Multiply-adds per second that are expected."""
        return self._rate

    async def run(
        self,
        work: Callable[[Cancel], T],
        *,
        client: str,
        cost: float,
        used: Callable[[float], None] = lambda seconds: None,
    ) -> T:
        """Run a function when its turn comes, and return its result; stop it if the caller is cancelled.

        Parameters
        ----------
        work : callable
            Called with a function to poll, which returns True once the work should stop.
        client : str
            Whom to charge for the time.
        cost : float
            Expected work, in multiply-adds.
        used : callable, optional
            Called with the seconds of its turns when they are over.

        Raises
        ------
        DeadlineExceeded
            The computation took too long.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        job = _Job(client, cost / self._rate, work=work, cost=cost, loop=loop, done=done)
        with self._lock:
            self._turns.add(job)
            if self._current is None:
                self._pass_turn(self._turns.next())
        try:
            return cast(T, await done)
        finally:
            self._abandon(job)
            used(job.used)
            del done, job  # an exception refers to this frame, and they to the exception

    def close(self) -> None:
        """Wait for the running computations, and end the threads."""
        self._pool.shutdown()

    def _compute(self, job: _Job) -> None:
        """Call the function of a job, in a thread of the pool."""
        result, error = None, None
        try:
            if not job.abandoned:
                result = job.work(_Turn(self, job))
        except BaseException as raised:
            error = raised
        with self._lock:
            self._charge(job)
            if error is None and not job.abandoned and job.used > _MEASURABLE:
                self._rate *= (job.cost / job.used / self._rate) ** _SHARE_OF_LAST
            self._turns.remove(job)
            job.ended = True
            self._pass_turn(self._turns.next())
        # An exception refers to the frames that it passed, and these to the job.
        done, job.done = job.done, None
        if done is not None and not job.abandoned:
            job.loop.call_soon_threadsafe(_settle, done, result, error)
        del done, error

    def _poll(self, job: _Job) -> bool:
        if job.abandoned or time.perf_counter() - job.since < _TURN:
            return job.abandoned
        with self._lock:
            self._charge(job)
            if job.used > self._max_seconds:
                raise DeadlineExceeded(
                    f"the computation took longer than {self._max_seconds:g} seconds, the most that this "
                    f"server gives to a request"
                )
            following = self._turns.next(job)
            if following is None:
                return False
            self._pass_turn(following)
        job.turn.acquire()
        return job.abandoned

    def _is_due(self, job: _Job) -> bool:
        if job.abandoned or time.perf_counter() - job.since < _TURN:
            return job.abandoned
        with self._lock:
            self._charge(job)
            return job.used > self._max_seconds or self._turns.next(job) is not None

    def _abandon(self, job: _Job) -> None:
        """Stop a job, unless it has ended."""
        with self._lock:
            if job.ended:
                return
            job.abandoned = True
            if not job.begun:
                job.ended = True
                self._turns.remove(job)

    def _charge(self, job: _Job) -> None:
        now = time.perf_counter()
        self._turns.charge(job, now - job.since)
        job.since = now

    def _pass_turn(self, job: _Job | None) -> None:
        """Give the turn to a job, if there is one."""
        self._current = job
        if job is None:
            return
        job.since = time.perf_counter()
        if job.begun:
            job.turn.release()
        else:
            self._turns.begin(job)
            self._pool.submit(self._compute, job)


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():  # its caller has left
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def _use_threads(threads: int) -> None:
    """Set the numbers of threads of torch and FAISS, which are settings of the calling thread."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
