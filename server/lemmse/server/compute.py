"""Computations outside of the event loop, one at a time, in turns.

One computation uses all cores, so that only one has its turn. Each runs in a thread of its own, and passes
the turn on when it polls whether it is cancelled, as it does after some tens of milliseconds of work.

When the turn comes to small work, alike work that waits is done together with it. Each caller is charged for
its part of the time, and may leave without disturbing the others.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock, Semaphore
from typing import Any, Generic, TypeVar, cast

import faiss
import torch

from lemmse.contract.errors import DeadlineExceeded
from lemmse.estimator.cancellation import QUERIES_OF_THREAD, Cancel
from lemmse.server.turns import MOST_BEGUN, Job, Turns

__all__ = ["Compute", "Joint"]

T = TypeVar("T")

_TURN = 0.02
"""Time in seconds before which a turn does not end."""
_RATE = 5e9
"""Multiply-adds per second and thread that are expected before any were measured."""
_SHARE_OF_LAST = 0.2
"""Share that the last job has in the expected rate."""
_MEASURABLE = 0.05
"""Time in seconds below which a job says nothing about the rate."""
_LONGEST_JOINT = 1.0
"""Expected time in seconds, alone, above which a job is not done together with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint(Generic[T]):
    """How work is done together with that of other callers."""

    key: object
    """What their works have in common, if they can be done together."""
    argument: Any
    """What `work` takes of each caller."""
    queries: int
    """Number of queries of this one."""
    work: Callable[[list[Any], Cancel], Sequence[T | Exception]]
    """Function of the arguments of all: returns the result of each, or its error."""


@dataclass(eq=False, slots=True, kw_only=True)
class _Job(Job):
    """A job and its thread."""

    work: Callable[[Cancel], Any]
    """The function to call."""
    joint: Joint[Any] | None
    """How it is done together with others; None if it is not."""
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
    left: bool = False
    """Whether its caller has left, or was told that it took too long."""
    lead: "_Job | None" = None
    """The job whose turns it shares, None for one that has turns of its own."""
    companions: "list[_Job]" = field(default_factory=list)
    """The jobs that share its turns. They are removed when it ends, as a job must not refer to itself."""
    share: float = 1.0
    """Its share of the time of these turns."""

    @property
    def together(self) -> "list[_Job]":
        """Itself and its companions."""
        return [self, *self.companions]


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
        self._most_queries = QUERIES_OF_THREAD * threads
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
        joint: Joint[T] | None = None,
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
        joint : Joint, optional
            How to do the work together with other work that waits when its turn comes.
        used : callable, optional
            Called with the seconds of its turns when they are over.

        Raises
        ------
        DeadlineExceeded
            The computation took too long.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        job = _Job(client, cost / self._rate, work=work, joint=joint, cost=cost, loop=loop, done=done)
        with self._lock:
            self._turns.add(job)
            if self._current is None:
                self._pass_turn(self._turns.next())
        try:
            return cast(T, await done)
        finally:
            self._leave(job)
            used(job.used)
            del done, job  # an exception refers to this frame, and they to the exception

    def close(self) -> None:
        """Wait for the running computations, and end the threads."""
        self._pool.shutdown()

    def _compute(self, job: _Job) -> None:
        """Call the function of a job, in a thread of the pool."""
        outcomes = self._outcomes(job)
        with self._lock:
            self._charge(job)
            alone = not job.companions  # the others are faster
            failed = isinstance(outcomes[0], BaseException)
            if alone and not failed and not job.abandoned and job.used > _MEASURABLE:
                self._rate *= (job.cost / job.used / self._rate) ** _SHARE_OF_LAST
            ended, job.companions = job.together, []
            for each in ended:
                each.lead, each.ended = None, True
                self._turns.remove(each)
            self._pass_turn(self._turns.next())
        for each in ended:
            # An exception refers to the frames that it passed, and these to the job.
            outcome, done, each.done = outcomes.pop(0), each.done, None
            if done is not None and not each.left:
                each.loop.call_soon_threadsafe(_settle, done, outcome)
            del done, outcome

    def _outcomes(self, job: _Job) -> list[Any]:
        """Return the result of a job and of each of its companions, or the error."""
        turn, several = _Turn(self, job), job.together
        try:
            if job.abandoned:
                return [None] * len(several)
            if len(several) == 1 or job.joint is None:
                return [job.work(turn)]
            return list(job.joint.work([one.joint.argument for one in several if one.joint], turn))
        except BaseException as error:
            return [error] * len(several)

    def _poll(self, job: _Job) -> bool:
        if job.abandoned or time.perf_counter() - job.since < _TURN:
            return job.abandoned
        with self._lock:
            self._charge(job)
            self._end_late(job)
            if job.abandoned:
                return True
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
            return self._turns.next(job) is not None or any(self._is_late(each) for each in job.together)

    def _is_late(self, job: _Job) -> bool:
        return not job.left and job.used > self._max_seconds

    def _end_late(self, job: _Job) -> None:
        """Have those leave a job who have had their time."""
        for each in job.together:
            if self._is_late(each) and each.done is not None:
                error = DeadlineExceeded(
                    f"the computation took longer than {self._max_seconds:g} seconds, the most that this "
                    f"server gives to a request"
                )
                each.loop.call_soon_threadsafe(_settle, each.done, error)
                self._mark_left(each)

    def _leave(self, job: _Job) -> None:
        """Have the caller leave a job, unless it has ended."""
        with self._lock:
            if not job.ended:
                self._mark_left(job)

    def _mark_left(self, job: _Job) -> None:
        """Note that a caller has left, and stop its job if nobody is left."""
        job.left = True
        if not job.begun:
            job.abandoned = job.ended = True
            self._turns.remove(job)
        else:
            lead = job.lead or job
            lead.abandoned = all(each.left for each in lead.together)

    def _charge(self, job: _Job) -> None:
        now = time.perf_counter()
        for each in job.together:
            self._turns.charge(each, each.share * (now - job.since))
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
            self._join(job)
            self._turns.begin(job, job.companions)
            self._pool.submit(self._compute, job)

    def _join(self, job: _Job) -> None:
        """Add those jobs that wait and can be done together with a job."""
        if job.joint is None or job.expected > _LONGEST_JOINT:
            return
        total = job.joint.queries
        for other in self._turns.waiting():
            if other is job or other.joint is None or other.joint.key != job.joint.key:
                continue
            if total + other.joint.queries <= self._most_queries and other.expected <= _LONGEST_JOINT:
                total += other.joint.queries
                other.lead = job
                job.companions.append(other)
        for each in job.together:
            if each.joint is not None:
                each.share = each.joint.queries / total


def _settle(done: asyncio.Future[Any], outcome: Any) -> None:
    if done.done():  # its caller has left
        return
    if isinstance(outcome, BaseException):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)


def _use_threads(threads: int) -> None:
    """Set the numbers of threads of torch and FAISS, which are settings of the calling thread."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
