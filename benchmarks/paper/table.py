"""Agreement of each network with the formula, and PSNR of both: a row for a task, network, σ and input."""

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures import decibels
from benchmarks.paper.formula import Answers
from benchmarks.paper.tasks import VERSION, Measurements
from benchmarks.paper.training import Trained
from benchmarks.quality.report import markdown

AGREED = 25
"""Agreement in dB that the paper states."""
TENTHS = 10
"""Number of parts of the pixels, by log density, for which the agreement is computed separately."""
SIZES = (1.0, 2.0, 10.0, 100.0, 1e4, math.inf)
"""Bounds of the ranges of effective sample size for which the errors are computed separately."""


SETTING = (
    "data",
    "training",
    "physics",
    "pre_inverse",
    "patch_size",
    "network",
    "length",
    "inputs",
    "sigma",
)
"""Settings of a comparison, except the number of images."""


@dataclass(frozen=True, slots=True)
class Row:
    """One network compared with the formula, on images of one kind at one σ; dB are means over the images."""

    data: str
    """Name of the data set."""
    training: int
    """Number of training images."""
    physics: str
    """Specification of A."""
    pre_inverse: str
    """Specification of B."""
    patch_size: int
    """Side p, in pixels."""
    network: str
    """Name of the network."""
    length: str
    """Requested length of its training."""
    parameters: int
    """Number of its parameters."""
    steps: int
    """Number of steps of its training."""
    seconds: float
    """Wall time of its training, in seconds."""
    device: str
    """Where it was trained."""
    inputs: str
    """Kind of the images that were measured."""
    images: int
    """Number of these images."""
    sigma: float
    """Noise standard deviation."""
    agreement: float
    """PSNR between network and formula."""
    network_psnr: float
    """PSNR between network and clean image."""
    formula_psnr: float
    """PSNR between formula and clean image."""
    pooled_agreement: float | None
    """PSNR between network and the formula with patches of all positions, if the pre-inverse is a mask."""
    mode: str
    """Mode of the formula."""
    expected_db: float | None
    """Expected agreement with the exact sum, if the sum was not exact."""
    by_density: list[float]
    """PSNR between network and formula in each tenth of all images' pixels, by ascending log density."""
    by_size: list[list[float] | None]
    """For each range of effective sample sizes, the share of the pixels of all images, and the PSNR there of
    network and of formula, to the clean image; None if it has no pixel."""
    early: bool
    """Whether the training continued after these steps."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Return the settings that identify a row."""
        return tuple(getattr(self, name) for name in SETTING), self.early and self.steps


class Rows:
    """The finished rows in a folder, the latest one for each setting."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"results-{VERSION}.json"
        self.rows: dict[tuple[Any, ...], Row] = {}
        if self.path.exists():
            for row in json.loads(self.path.read_text()):
                self.add(Row(**row))

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def add(self, row: Row) -> None:
        """Add a row, in place of the one with the same settings."""
        self.rows[row.key] = row

    def save(self) -> None:
        """Write all rows, completely or not at all."""
        scratch = self.path.with_suffix(".new")
        scratch.write_text(json.dumps([asdict(row) for row in self], indent=1))
        scratch.replace(self.path)


def compare(
    measurements: Measurements,
    formula: Answers,
    network: str,
    length: str,
    trained: Trained,
    *,
    pooled: Answers | None = None,
    early: bool = False,
) -> Row:
    """Reconstruct with a network, or an early one, and return the row of its comparison with the formula.

    Reconstructions of `Task.pooled` are also compared if they are given.
    """
    task, clean, sigma = measurements.task, measurements.clean, measurements.sigma
    answered = trained.answer(measurements.seen, sigma)
    pixels = [np.stack(images) for images in (answered, formula.images, clean)]
    agreement, network_psnr, formula_psnr = (_psnr(a, b) for a, b in _pairs(pixels))
    errors = np.stack([_square(a, b).mean(axis=-1).ravel() for a, b in _pairs(pixels)])  # (3, pixels)
    density, ess = (np.stack(maps).ravel() for maps in (formula.log_density, formula.ess))
    tenths = np.array_split(np.argsort(density, kind="stable"), TENTHS)
    size = np.searchsorted(SIZES, np.maximum(ess, 1), side="right") - 1
    ranges = [size == k for k in range(len(SIZES) - 1)]
    return Row(
        data=task.data.name,
        training=len(task.data.training),
        physics=task.problem.physics,
        pre_inverse=task.problem.pre_inverse,
        patch_size=task.patch_size,
        network=network,
        length=length,
        parameters=trained.parameters,
        steps=trained.steps,
        seconds=trained.seconds,
        device=trained.device,
        inputs=measurements.kind,
        images=len(clean),
        sigma=sigma,
        agreement=agreement,
        network_psnr=network_psnr,
        formula_psnr=formula_psnr,
        pooled_agreement=_psnr(answered, pooled.images) if pooled else None,
        mode=formula.mode,
        expected_db=formula.expected_db,
        by_density=[decibels(errors[0, tenth]) for tenth in tenths],
        by_size=[
            [float(inside.mean()), *(decibels(error[inside]) for error in errors[1:])]
            if inside.any()
            else None
            for inside in ranges
        ],
        early=early,
    )


def text(rows: Sequence[Row]) -> str:
    """Return the tables in Markdown: a section for each task and input, a line for each network."""
    sections = []
    for section in dict.fromkeys(map(heading, rows)):
        own = [row for row in rows if heading(row) == section]
        sigmas = sorted({row.sigma for row in own})
        header = ["network", *(f"σ = {sigma:g}" for sigma in sigmas), "mean agreement"]
        lines = []
        for network in dict.fromkeys(row.network for row in own):
            found = {row.sigma: row for row in own if row.network == network}
            mean = statistics.fmean(row.agreement for row in found.values())
            cells = [_cell(found[sigma]) if sigma in found else "" for sigma in sigmas]
            lines.append([network, *cells, f"{mean:.1f}"])
        sections.append(f"### {section}\n\n{_summed(own)}\n\n{markdown(header, lines)}")
    return "\n".join(sections)


def summary(rows: Sequence[Row]) -> str:
    """Return the agreement alone in Markdown: a line for each task, with all networks in a cell."""
    networks = list(dict.fromkeys(row.network for row in rows))
    sigmas = sorted({row.sigma for row in rows})
    header = [
        "data",
        "training images",
        "problem",
        "p",
        "training",
        *(f"σ = {sigma:g}" for sigma in sigmas),
        "mean",
    ]
    lines = []
    for task in dict.fromkeys(map(_task, rows)):
        own = [row for row in rows if _task(row) == task]
        cells = []
        for sigma in sigmas:
            found = {row.network: f"{row.agreement:.1f}" for row in own if row.sigma == sigma}
            cells.append(" / ".join(found.get(network, "–") for network in networks) if found else "")
        lines.append([*task, *cells, f"{statistics.fmean(row.agreement for row in own):.1f}"])
    return f"{' / '.join(networks)}:\n\n{markdown(header, lines)}"


def between(numbers: Sequence[float]) -> str:
    """Return a single number, or the least and the greatest."""
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low}–{high}"


def heading(row: Row) -> str:
    """Return the heading of the table that a row is in."""
    data, training, problem, p, length = _task(row)
    return (
        f"{data}, {training} training images, {problem}, p = {p}, {length} of training: {row.inputs} images"
    )


def _task(row: Row) -> tuple[str, ...]:
    """Return data set, training images, problem, patch size and length of the training, as text."""
    seen = "" if row.pre_inverse == "identity" else f" seen through {row.pre_inverse}"
    return row.data, str(row.training), f"{row.physics}{seen}", str(row.patch_size), row.length


def _summed(rows: Sequence[Row]) -> str:
    """Describe how the formula was summed."""
    images = max(row.images for row in rows)
    expected = [row.expected_db for row in rows if row.expected_db is not None]
    if not expected:
        return f"{images} images; the formula is exact."
    return f"{images} images; the formula is hybrid, within {min(expected):.0f} dB of exact as calibrated."


def _cell(row: Row) -> str:
    return f"**{row.agreement:.1f}** ({row.network_psnr:.1f} / {row.formula_psnr:.1f})"


def _pairs(pixels: Sequence[NDArray[np.float64]]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    network, formula, clean = pixels
    return [(network, formula), (network, clean), (formula, clean)]


def _psnr(a: Iterable[NDArray[np.float64]], b: Iterable[NDArray[np.float64]]) -> float:
    """Return the mean PSNR over the images."""
    return statistics.fmean(decibels(_square(x, y)) for x, y in zip(a, b, strict=True))


def _square(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.square(a - b)
    return squares
