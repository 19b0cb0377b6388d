"""How well mode hybrid keeps the requested accuracy_db, image by image.

    python -m benchmarks.promise (--source FILE [--limit N] [--patch-size P] | --index DIR) --test FILE
        [--images N] [--sigmas S…] [--accuracies DB…] [--out DIR]

Each held-out image is reconstructed alone at each σ, once in mode exact and once in hybrid for each requested
accuracy_db, with the maps error (estimated) and ess. An index built from --source is calibrated first; one
given by --index is used as it is. The table has a line for each σ and request, then one for each request over
all σ, and one over everything; OUT/promise.json has these lines and every single case.

The agreement of an image is the PSNR between hybrid and exact over all pixels and channels, for a peak of 1.
It is at most 100 dB, where float32 rounds, and so is the estimate for the image. The mean square of a map of
errors agrees with the true mean square error if they differ by at most 3 dB; if both are beyond 90 dB, they
agree.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.inputs import add_index_options, index_folder, read_images
from benchmarks.measures import decibels, print_rows, timed
from benchmarks.quality.data import Image
from benchmarks.quality.scores import add_noise
from lemmse.client import Client, LemmseError, Result, connect

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.5, 0.8)
ACCURACIES = (40.0, 50.0, 60.0)
MAPS = ("error", "ess")
MOST = 100.0
"""Largest agreement, in dB."""
TOLERANCE = 0.5
"""A request is kept if the agreement is at most this much below it, in dB."""
WORST = 20
"""Number of the worst pixels of an image."""
MAP_TOLERANCE, MAP_BEYOND = 3.0, 90.0
"""Largest difference of a map's mean square from the true one, unless both are beyond a limit, in dB."""


@dataclass(frozen=True, slots=True)
class Case:
    """One image at one σ and request; shares are of 1."""

    sigma: float
    asked_db: float
    agreement_db: float
    expected_db: float | None
    """The agreement that the calibration leads to expect, if there is one."""
    estimated_db: float | None
    """The estimate of the agreement for this image, if there is one."""
    exact_seconds: float
    hybrid_seconds: float
    covered: float
    """Share of pixels and channels where |hybrid − exact| is at most the error."""
    worst_covered: float
    """Share of the worst pixels, by their worst channel, of which all channels are covered."""
    map_db: float
    """Mean square of the map error, as PSNR."""

    @property
    def kept(self) -> bool:
        """Whether the request is reached."""
        return self.beyond_db >= -TOLERANCE

    @property
    def beyond_db(self) -> float:
        """Agreement relative to the request, in dB."""
        return self.agreement_db - self.asked_db

    @property
    def map_agrees(self) -> bool:
        """Whether the mean square of the map error is that of the true error."""
        both = (self.map_db, self.agreement_db)
        return min(both) > MAP_BEYOND or abs(self.map_db - self.agreement_db) <= MAP_TOLERANCE


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: some cases; shares are in percent, estimates are minus the agreement."""

    sigma: str
    asked_db: str
    cases: int
    kept: float
    worst_db: float
    """Least agreement relative to the request."""
    median_db: float
    """Median agreement."""
    estimated_db: float | None
    """Median estimate for the image; None if a case has none, as below."""
    estimate_off_db: float | None
    """Median of estimate minus agreement, and its 10 % and 90 % quantiles."""
    off_10_db: float | None
    off_90_db: float | None
    seconds: float
    """Seconds of hybrid for an image."""
    exact_ratio: float
    """Seconds of exact over those of hybrid."""
    covered: float
    worst_covered: float
    map_agrees: float


def compare(
    exact: Image | NDArray[np.float32], hybrid: Image | NDArray[np.float32], error: NDArray[np.float32]
) -> dict[str, float]:
    """Return the fields of a case that follow from the two images and the map error, (H, W, C)."""
    off = np.abs(np.subtract(hybrid, exact, dtype=np.float64))  # (H, W, C)
    covers = off <= error
    worst = np.argsort(off.max(axis=2), axis=None)[-WORST:]
    return {
        "agreement_db": decibels(np.square(off), MOST),
        "covered": float(covers.mean()),
        "worst_covered": float(covers.all(axis=2).flat[worst].mean()),
        "map_db": decibels(np.square(error, dtype=np.float64), MOST),
    }


def measure(
    client: Client, clean: Image, number: int, sigma: float, accuracies: Sequence[float]
) -> list[Case]:
    """Return the cases of one image at one σ."""
    y = add_noise(clean, sigma, [round(sigma * 1e6), number])
    ask = partial(client.reconstruct, y, sigma=sigma, maps=MAPS)
    exact, exact_seconds = timed(partial(ask, mode="exact"))
    cases = []
    for asked in accuracies:
        hybrid, seconds = timed(partial(ask, mode="hybrid", accuracy_db=asked))
        assert hybrid.error is not None
        case = Case(
            sigma=sigma,
            asked_db=asked,
            expected_db=hybrid.diagnostics.expected_accuracy_db,
            estimated_db=estimated(hybrid),
            exact_seconds=exact_seconds,
            hybrid_seconds=seconds,
            **compare(exact.image, hybrid.image, hybrid.error),
        )
        cases.append(case)
    return cases


def estimated(result: Result) -> float | None:
    """Return the estimated agreement of an image with exact, if there is one."""
    accuracy: float | None = result.diagnostics.estimated_accuracy_db
    return None if accuracy is None else min(accuracy, MOST)


def summary(cases: Sequence[Case], sigma: str = "all", asked: str = "all") -> Row:
    """Return the line of some cases."""
    seconds = statistics.fmean(case.hybrid_seconds for case in cases)
    estimates = [case.estimated_db for case in cases if case.estimated_db is not None]
    median = low = high = None
    if len(estimates) == len(cases):
        off = np.subtract(estimates, [case.agreement_db for case in cases])
        low, median, high = np.quantile(off, [0.1, 0.5, 0.9]).tolist()
    return Row(
        sigma=sigma,
        asked_db=asked,
        cases=len(cases),
        kept=percent(case.kept for case in cases),
        worst_db=min(case.beyond_db for case in cases),
        median_db=statistics.median(case.agreement_db for case in cases),
        estimated_db=None if median is None else statistics.median(estimates),
        estimate_off_db=median,
        off_10_db=low,
        off_90_db=high,
        seconds=seconds,
        exact_ratio=statistics.fmean(case.exact_seconds for case in cases) / seconds,
        covered=percent(case.covered for case in cases),
        worst_covered=percent(case.worst_covered for case in cases),
        map_agrees=percent(case.map_agrees for case in cases),
    )


def percent(shares: Iterable[float]) -> float:
    return 100 * statistics.fmean(shares)


def table(cases: Sequence[Case]) -> list[Row]:
    """Return a line for each σ and request, for each request, and for all cases."""
    sigmas = sorted({case.sigma for case in cases})
    requests = sorted({case.asked_db for case in cases})
    rows = [
        summary(
            [case for case in cases if (case.sigma, case.asked_db) == (sigma, asked)],
            f"{sigma:g}",
            f"{asked:g}",
        )
        for sigma in sigmas
        for asked in requests
    ]
    rows += [
        summary([case for case in cases if case.asked_db == asked], asked=f"{asked:g}") for asked in requests
    ]
    return [*rows, summary(cases)]


def run(arguments: argparse.Namespace) -> None:
    images = read_images(arguments.test, arguments.images)
    work = [(sigma, number) for sigma in arguments.sigmas for number in range(len(images))]
    cases: list[Case] = []
    with index_folder(arguments) as folder, connect(folder) as client:
        (info,) = client.list_indexes()
        measure(client, images[0][:4, :4], 0, arguments.sigmas[0], ACCURACIES)  # compiles the loops
        for sigma, number in track(work, console=Console(stderr=True)):
            cases += measure(client, images[number], number, sigma, arguments.accuracies)
    rows: list[dict[str, Any]] = [asdict(row) for row in table(cases)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"index": asdict(info), "rows": rows, "cases": [asdict(case) for case in cases]}
    (arguments.out / "promise.json").write_text(json.dumps(content, indent=1))
    calibrated = "" if any(case.expected_db is not None for case in cases) else ", not calibrated"
    print_rows(rows, f"{info.keys} keys, p = {info.patch_size}{calibrated}, {len(images)} images")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_index_options(parser)
    parser.add_argument("--test", required=True, help="images that are not in the index")
    parser.add_argument("--images", type=int, default=20, help="of which so many (default %(default)s)")
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS, help="(default %(default)s)")
    parser.add_argument(
        "--accuracies", type=float, nargs="+", default=ACCURACIES, help="in dB (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("promise"), help="folder for JSON")
    try:
        run(parser.parse_args())
    except LemmseError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
