"""The report of a batch of files, as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lemmse.client.jobs import Job
from lemmse.contract.lines import one_line
from lemmse.contract.replacing import replacing

__all__ = ["failure", "write_report"]


def failure(job: Job, error: Exception) -> dict[str, Any]:
    """Return the JSON object of a file that failed."""
    return {"input": str(job.source), "error": one_line(error), "code": getattr(error, "code", "UNKNOWN")}


def write_report(
    path: Path, jobs: Sequence[Job], outcomes: Sequence[tuple[Job, object]], *, already: int
) -> None:
    """Write how many files are reconstructed, which failed, and which were not reached.

    Parameters
    ----------
    path : path
        The file.
    jobs : sequence of Job
        All jobs.
    outcomes : sequence of (Job, outcome)
        Those that ended, with an exception if they failed.
    already : int
        Number of jobs that were finished before, by the journal.
    """
    failures = [failure(job, outcome) for job, outcome in outcomes if isinstance(outcome, Exception)]
    ended = {job.source for job, _ in outcomes}
    content = {
        "reconstructed": len(outcomes) - len(failures),
        "finished_before": already,
        "failed": failures,
        "not_reached": [str(job.source) for job in jobs if job.source not in ended],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
