"""Reconstruct files part by part, many at a time: an error of one file is the outcome of that file.

A part is a plane, or a slab of a volume where the index is of volumes. Parts of all files go through one call
of `reconstruct_many`, so that a client reads ahead across files. The outputs of a file get their names when
all of its parts are written. Files with large planes come last: their tiles go through a call for each plane.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from lemmse.client.interface import Client
from lemmse.client.jobs import Job
from lemmse.client.journal import Journal
from lemmse.client.large_files import run_large
from lemmse.client.progress import Progress
from lemmse.client.volume_noise import VolumeNoise
from lemmse.client.work import Done, Reading, Work
from lemmse.contract.errors import LemmseError
from lemmse.contract.lines import one_line
from lemmse.contract.results import NoiseEstimate, Result, with_estimate

__all__ = ["run"]


def run(
    client: Client,
    jobs: Sequence[Job],
    reading: Reading,
    *,
    maps: Collection[str],
    progress: Progress,
    journal: Journal | None = None,
    **options: Any,
) -> Iterator[tuple[Job, Done | Exception]]:
    """Process jobs, and yield each with its outcome, after its files are written or with its error.

    Outcomes are in the order of the jobs, except that errors of files that cannot be read may come earlier,
    and those of large images come last.

    Parameters
    ----------
    client : Client
        Reconstructs the parts.
    jobs : sequence of Job
        What to read and write.
    reading : Reading
        How.
    maps : collection of str
        The maps that the jobs write.
    progress : callable
        Told of the parts of a stack.
    journal : Journal, optional
        Told of a job before its outputs get their names, and of the tiles of large planes.
    **options
        Further arguments of `Client.reconstruct_many`.

    Raises
    ------
    LemmseError
        An error of the whole batch, such as a lost connection. What is not finished is discarded.
    """
    own: dict[str, Any] = {}  # arguments of the part that is sent
    over: deque[tuple[Job, Done | Exception]] = deque()
    sent: deque[tuple[Work, int, NoiseEstimate | None]] = deque()
    working: list[Work] = []
    large: list[Job] = []

    def settle(work: Work) -> None:
        if work.over and work in working:
            working.remove(work)
            if work.error is None and journal is not None:
                journal.add(work.job, done=False)
            over.append((work.job, work.finish()))

    volumes = None if reading.slabs is None else VolumeNoise(client, options)

    def for_each_part(name: str) -> Iterator[Any]:
        while True:
            yield own[name]

    if volumes is not None:
        options |= {name: for_each_part(name) for name in volumes.names}

    def images() -> Iterator[NDArray[Any]]:
        for job in jobs:
            try:
                work = Work(job, reading)
            except (LemmseError, OSError) as error:
                over.append((job, error))
                continue
            if work.large:
                work.discard()
                large.append(job)
                continue
            working.append(work)
            for number, part in enumerate(work.parts):
                estimate = None
                try:
                    y = work.part(number)
                    if volumes is not None:
                        estimate = volumes.estimate(work, part)
                        own.update(volumes.arguments(y, estimate))
                except (LemmseError, OSError) as error:
                    work.error = work.error or error
                if work.error is not None:
                    break
                sent.append((work, number, estimate))
                work.sent += 1
                work.sending = number + 1 < len(work.parts)
                yield y
            work.sending = False
            settle(work)

    try:
        with closing(client.reconstruct_many(images(), maps=maps, **options)) as outcomes:
            for outcome in outcomes:
                work, number, estimate = sent.popleft()
                if isinstance(outcome, Result):
                    outcome = replace(outcome, diagnostics=with_estimate(outcome.diagnostics, estimate))
                work.take(number, outcome)
                if len(work.parts) > 1:
                    progress(one_line(work.job.source), number + 1, len(work.parts))
                settle(work)
                while over:
                    yield over.popleft()
        yield from over
        for job in large:
            asked = {"maps": maps, "progress": progress, "journal": journal, **options}
            yield job, run_large(client, job, reading, **asked)
    finally:
        for work in working:
            work.discard()
