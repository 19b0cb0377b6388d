"""Report progress on stderr: bars on a terminal, JSON lines for programs."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Literal

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

__all__ = ["Progress", "report_progress"]

Progress = Callable[[str, int, int], None]
"""A callable `progress(stage, done, total)`, called when a stage begins and as it advances."""

_PERIOD = 1.0
"""Least time between two JSON lines of a stage, in seconds."""


class _Rate(ProgressColumn):
    """A column with the items per second, in the format of Rich."""

    def render(self, task: Task) -> Text:
        return TaskProgressColumn.render_speed(task.finished_speed or task.speed)


_AMOUNTS: dict[str, tuple[type[ProgressColumn], ...]] = {
    "items": (MofNCompleteColumn, _Rate),
    "bytes": (DownloadColumn, TransferSpeedColumn),
}


@contextmanager
def report_progress(*, as_json: bool, unit: Literal["items", "bytes"] = "items") -> Iterator[Progress]:
    """Report the progress of the `with` block.

    Parameters
    ----------
    as_json : bool
        Write JSON lines instead of drawing bars: at most one per second for each stage, and its last one.
    unit : str
        Unit of the counts.
    """
    if as_json:
        yield _lines()
        return
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    amounts = (column() for column in _AMOUNTS[unit])
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amounts, TimeRemainingColumn())
    with Bars(
        *columns,
        console=Console(stderr=True),
        # Rich must redirect output to a terminal, so that the bars stay intact, but not output to a pipe.
        redirect_stdout=sys.stdout.isatty(),
        speed_estimate_period=math.inf,  # a single item may take minutes
    ) as bars:
        stages: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total, completed=done)
            bars.update(stages[stage], completed=done)

        yield progress


def _lines() -> Progress:
    begun: dict[str, tuple[float, int]] = {}
    due: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        now = monotonic()
        start, before = begun.setdefault(stage, (now, done))
        if done < total and now < due.get(stage, now):
            return
        due[stage] = now + _PERIOD
        seconds = now - start
        rate = (done - before) / seconds if seconds and done > before else None
        line: dict[str, Any] = {
            "stage": stage,
            "done": done,
            "total": total,
            "seconds": seconds,
            "rate": rate,
            "remaining_seconds": None if rate is None else (total - done) / rate,
        }
        click.echo(json.dumps(line), err=True)

    return progress
