"""The order in which jobs have their turns: fair to clients, short jobs before long ones, and no starvation.

Jobs compute in turns of some tens of milliseconds. Clients have equal shares of the time, whatever they ask
for, and of each client's share the jobs of each magnitude have equal shares. Within a magnitude, jobs of a
client are done one after the other. A job gives way at once to a much shorter one whose client has used no
more time; to another only if its own client is ahead by more than the job takes, up to a second: switching
between equals has no use, since the first would end later and the last no sooner. A job that takes far longer
than expected is expected to take longer. A job that is computed together with another one has no turns of its
own, and its client is charged for its part of the time.

So beside one long job a short one waits, at most, as long as it takes itself, for what its client owes.
"""

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Generic, TypeVar

from lemmse.server.shares import Shares

__all__ = ["MOST_BEGUN", "Job", "Turns"]

_SHORT = 0.1
"""Expected time in seconds of the shortest magnitude; each further one is ten times as long."""
_LONGEST = 4
"""The last magnitude."""
_BEGUN = 2
"""Number of jobs of one magnitude that have begun at which no other does: each holds a thread and memory."""
MOST_BEGUN = 32
"""Largest number of jobs that have begun."""
_OVERRUN = 3.0
"""Ratio of the time that a job has used to its expected time from which it is expected to take longer."""
_MUCH_SHORTER = 0.5
"""Ratio of expected times below which a job does not wait for another."""
_LEAD, _LONGEST_LEAD = 2.0, 1.0
"""Time by which the client of a job may be ahead of one that is not much shorter, as a multiple of the job's
expected time and in seconds, before it gives way."""


@dataclass(eq=False, slots=True)
class Job:
    """A computation of a client."""

    client: str
    """Whom to charge."""
    expected: float
    """Expected time, in seconds."""
    begun: bool = False
    """Whether it has begun."""
    abandoned: bool = False
    """Whether its result is not needed any more."""
    blocked: bool = field(default=False, init=False)
    """Whether it could not begin when its turn might have come, because too many had."""
    used: float = field(default=0.0, init=False)
    """Time that it has used, in seconds."""

    @property
    def magnitude(self) -> int:
        """Order of magnitude of the expected time."""
        return min(math.ceil(math.log10(max(self.expected, _SHORT) / _SHORT)), _LONGEST)


J = TypeVar("J", bound=Job)


class _Client(Generic[J]):
    """The jobs of a client, by magnitude, in the order in which they came."""

    def __init__(self) -> None:
        self.jobs: dict[int, deque[J]] = {}
        self.shares: Shares[int] = Shares()


class Turns(Generic[J]):
    """The jobs that are not done, and whose turn it is. Not thread-safe."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client[J]] = {}
        self._shares: Shares[str] = Shares()
        self._begun: set[J] = set()

    def __iter__(self) -> Iterator[J]:
        """Iterate over the jobs, in no particular order."""
        for client in self._clients.values():
            for jobs in client.jobs.values():
                yield from jobs

    def add(self, job: J) -> None:
        """Add a job that has not begun."""
        self._jobs_like(job).append(job)

    def waiting(self) -> list[J]:
        """Return the jobs that have not begun: the first of each client, then the second, and so on."""
        ranked = [
            (rank, self._shares.used(name), job)
            for name, client in self._clients.items()
            for rank, job in enumerate(job for jobs in client.jobs.values() for job in jobs if not job.begun)
        ]
        return [job for *_, job in sorted(ranked, key=itemgetter(0, 1))]

    def begin(self, job: J, companions: Sequence[J] = ()) -> None:
        """Mark a job as begun, and others that are computed together with it."""
        for each in (job, *companions):
            each.begun = True
            if each.blocked:  # time at which it could not begin is not owed to it
                self._shares.catch_up(each.client, self._begun_clients())
                self._clients[each.client].shares.catch_up(
                    each.magnitude, self._begun_magnitudes(each.client)
                )
        self._begun.add(job)

    def remove(self, job: J) -> None:
        """Remove a job that is done, or that need not begin."""
        self._begun.discard(job)
        self._take_out(job, job.magnitude)

    def charge(self, job: J, seconds: float) -> None:
        """Count the time of a turn."""
        job.used += seconds
        self._shares.charge(job.client, seconds)
        self._clients[job.client].shares.charge(job.magnitude, seconds)
        if job.used > _OVERRUN * job.expected:
            before = job.magnitude
            job.expected = _OVERRUN * job.used
            if job.magnitude != before:
                self._jobs_like(job).appendleft(job)
                self._take_out(job, before)

    def next(self, current: J | None = None) -> J | None:
        """Return the job that is to have the next turn; None if it is the current one, or if there is none.

        Parameters
        ----------
        current : Job, optional
            The job whose turn it is, if it could go on.
        """
        candidates = [job for job in self._candidates() if current is None or self._gives_way(current, job)]
        return min(candidates, key=self._place, default=None)

    def _jobs_like(self, job: J) -> deque[J]:
        """Return the jobs of the client and magnitude of a job, to which it is to be added."""
        client = self._clients.get(job.client)
        if client is None:
            client = self._clients[job.client] = _Client()
            self._shares.enter(job.client, self._begun_clients(), debt=job.expected)
        if job.magnitude not in client.jobs:
            client.shares.enter(job.magnitude, self._begun_magnitudes(job.client), debt=job.expected)
            client.jobs[job.magnitude] = deque()
        return client.jobs[job.magnitude]

    def _begun_clients(self) -> set[str]:
        return {job.client for job in self._begun}

    def _begun_magnitudes(self, client: str) -> set[int]:
        present = self._clients[client].jobs
        return {job.magnitude for job in self._begun if job.client == client and job.magnitude in present}

    def _take_out(self, job: J, magnitude: int) -> None:
        client = self._clients[job.client]
        jobs = client.jobs[magnitude]
        jobs.remove(job)
        if not jobs:
            del client.jobs[magnitude]
            client.shares.leave(magnitude)
        if not client.jobs:
            del self._clients[job.client]
            self._shares.leave(job.client)

    def _candidates(self) -> Iterator[J]:
        """Yield the first job of each magnitude of each client, unless it cannot begin yet.

        Those that are computed together with another one are passed over.
        """
        yield from (job for job in self._begun if job.abandoned)
        begun = Counter(job.magnitude for job in self._begun)
        for client in self._clients.values():
            for magnitude, jobs in client.jobs.items():
                first = next((job for job in jobs if job in self._begun or not job.begun), None)
                if first is None:
                    continue
                if first.begun or (begun[magnitude] < _BEGUN and len(self._begun) < MOST_BEGUN):
                    yield first
                else:
                    first.blocked = True

    def _place(self, job: J) -> tuple[bool, float, float]:
        """Return what orders the jobs: those that only have to end come first."""
        used = self._clients[job.client].shares.used(job.magnitude)
        return not (job.begun and job.abandoned), self._shares.used(job.client), used

    def _gives_way(self, current: J, other: J) -> bool:
        if other is current:
            return False
        if other.begun and other.abandoned:
            return True
        if other.client == current.client:
            shares = self._clients[current.client].shares
            lead = shares.used(current.magnitude) - shares.used(other.magnitude)
        else:
            lead = self._shares.used(current.client) - self._shares.used(other.client)
        if other.expected < _MUCH_SHORTER * current.expected:
            return lead >= 0
        return lead > min(_LEAD * current.expected, _LONGEST_LEAD)
