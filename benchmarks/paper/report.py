"""Output of the benchmark: a report with the findings and the tables, and its figures."""

import platform
import statistics
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.paper.findings import HELD_OUT, findings
from benchmarks.paper.table import AGREED, Row, between, summary, text
from benchmarks.quality.report import markdown

SMOOTHED = 0.98
"""Share of the previous value in the smoothed loss, per step."""
PACKAGES = ("lemmse", "torch", "numpy", "faiss-cpu")
"""Packages whose versions the report lists."""


def write(rows: Sequence[Row], out: Path) -> None:
    """Write OUT/report.md and the figures beside it."""
    trained = [row for row in rows if not row.early]
    parts = [
        "# Networks beside the formula",
        "Networks were trained to reconstruct, and LE-MMSE was asked the same: the same patches, training "
        "images, physics, pre-inverse and noise. All numbers are PSNR in dB for a peak of 1.",
        f"Written on {date.today()} with Python {platform.python_version()}, "
        f"{', '.join(f'{package} {version(package)}' for package in PACKAGES)}; all seeds are 0.",
        f"## Agreement\n\n{_overview(trained)}",
        f"On held-out images, {summary([row for row in trained if row.inputs == HELD_OUT])}",
    ]
    for finding in findings(rows):
        finding.figure.savefig(out / f"{finding.name}.png", dpi=110)
        parts.append(f"## {finding.title}\n\n{finding.sentences}\n\n![{finding.title}]({finding.name}.png)")
    parts += [
        "## Tables",
        "In bold the agreement of network and formula; in brackets how near to the truth the network is, and "
        "the formula.",
        text(trained),
    ]
    (out / "report.md").write_text("\n\n".join(part.rstrip("\n") for part in parts) + "\n")


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the overview."""
    table = Table(*OVERVIEW)
    for line in _lines([row for row in rows if not row.early]):
        table.add_row(*line)
    console.print(table)


def draw_losses(losses: Sequence[float], path: Path, title: str) -> None:
    """Draw the smoothed loss of each step."""
    smooth, drawn = losses[0], []
    for loss in losses:
        smooth = SMOOTHED * smooth + (1 - SMOOTHED) * loss
        drawn.append(smooth)
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.semilogy(range(1, len(drawn) + 1), drawn)
    axes.set_xlabel("step")
    axes.set_ylabel("mean square error, smoothed")
    axes.set_title(title, fontsize=8)
    figure.savefig(path, dpi=90)


OVERVIEW = (
    "network",
    "p",
    "parameters",
    "training",
    "steps",
    "minutes",
    "on",
    "measured",
    "mean",
    "least",
    f"≥ {AGREED} dB",
)


def _overview(rows: Sequence[Row]) -> str:
    return markdown(OVERVIEW, _lines(rows))


def _lines(rows: Sequence[Row]) -> list[list[str]]:
    """Return a line for each network, patch size, length of the training and kind of images."""
    lines = []
    for group in dict.fromkeys(map(_group, rows)):
        own = [row for row in rows if _group(row) == group]
        agreements = [row.agreement for row in own]
        lines.append(
            [
                group[0],
                str(group[1]),
                between([row.parameters for row in own]),
                group[2],
                between([row.steps for row in own]),
                f"{statistics.fmean(row.seconds for row in own) / 60:.1f}",
                ", ".join(dict.fromkeys(row.device for row in own)),
                group[3],
                f"{statistics.fmean(agreements):.1f}",
                f"{min(agreements):.1f}",
                f"{sum(agreement >= AGREED for agreement in agreements)} of {len(own)}",
            ]
        )
    return lines


def _group(row: Row) -> tuple[str, int, str, str]:
    return row.network, row.patch_size, row.length, row.inputs
