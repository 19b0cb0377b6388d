"""How far the scores without the truth can be trusted: two plots.

    python -m benchmarks.score_plots NAME=IMAGES.npy:INDEX... --out FOLDER [--images N] [--size N]

Each NAME=IMAGES.npy:INDEX is clean images, (N, H, W, C), uint8 or float, that are not in the index, and the
index that reconstructs them, whether or not they are like its training images. White noise of σ = 0.05, 0.1,
0.2 and 0.4 is added, and σ is stated. The plots, and tables of the same numbers, are

    scores.png      expected_psnr_db against the PSNR, and misfit against the mean of the squared error less
                    the posterior variance, a point for each image
    coverage.png    the mean squared error of numbers against their `variance`, in bins of equally many, and
                    the shares of numbers that are within one and two posterior standard deviations of the
                    truth; of a normal distribution, 68 % and 95 % are
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.measures import print_rows
from benchmarks.noise import ASKED, noisy, psnr, rms
from lemmse.client import connect

SIGMAS = (0.05, 0.1, 0.2, 0.4)
BINS = 10

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scored:
    """What was found for some images with noise of one σ."""

    name: str
    sigma: float
    psnr: Numbers
    """PSNR of each image, in dB, (N,)."""
    expected: Numbers
    """expected_psnr_db of each image, (N,)."""
    misfit: Numbers
    """misfit of each image, (N,)."""
    square: Numbers
    """Squared error of every number of all images."""
    variance: Numbers
    """Posterior variance of every number of all images, as `square`."""

    @property
    def beyond(self) -> Numbers:
        """Mean squared error of each image less its mean posterior variance, (N,)."""
        each: Numbers = (self.square - self.variance).reshape(len(self.psnr), -1).mean(axis=1)
        return each

    def within(self, deviations: float) -> float:
        """Return the share of numbers within so many posterior standard deviations of the truth."""
        return float((self.square <= deviations**2 * self.variance).mean())

    def row(self) -> dict[str, object]:
        """Return a row of the table."""
        return {
            "images": self.name,
            "sigma": self.sigma,
            "PSNR": f"{self.psnr.mean():.2f}",
            "expected": f"{self.expected.mean():.2f}",
            "error": f"{rms(self.expected - self.psnr):.2f}",
            "beyond": f"{self.beyond.mean():.5f}",
            "misfit": f"{self.misfit.mean():.5f}",
            "square / variance": f"{self.square.mean() / self.variance.mean():.2f}",
            "within 1": f"{100 * self.within(1):.0f} %",
            "within 2": f"{100 * self.within(2):.0f} %",
        }


def score(name: str, images: list[Numbers], index: Path, sigma: float) -> Scored:
    """Reconstruct noisy images, and compare what the answers say with the truth."""
    found, square, variance = [], [], []
    with connect(index) as client:
        for x, y in noisy(images, sigma):
            r = client.reconstruct(y, sigma=sigma, maps=("variance",), **ASKED)
            found.append((psnr(r, x), r.diagnostics.expected_psnr_db, r.diagnostics.misfit))
            square.append(np.square(r.image - x))
            variance.append(np.asarray(r.variance, np.float64))
    true, expected, misfit = np.array(found, np.float64).T
    return Scored(name, sigma, true, expected, misfit, np.ravel(square), np.ravel(variance))


def draw_scores(results: list[Scored], path: Path) -> None:
    """Draw scores.png."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in colours(results).items():
        own = [one for one in results if one.name == name]
        style = {"color": colour, "s": 12, "alpha": 0.7, "label": name}
        left.scatter(joined(own, "psnr"), joined(own, "expected"), **style)
        right.scatter(joined(own, "beyond"), joined(own, "misfit"), **style)
    diagonal(left)
    diagonal(right)
    left.set(xlabel="PSNR (dB)", ylabel="expected_psnr_db")
    right.set(xlabel="mean squared error less posterior variance", ylabel="misfit")
    right.set_xscale("symlog", linthresh=1e-3)
    right.set_yscale("symlog", linthresh=1e-3)
    for axis in (left, right):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def draw_coverage(results: list[Scored], path: Path) -> None:
    """Draw coverage.png."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in colours(results).items():
        own = [one for one in results if one.name == name]
        order = np.argsort(np.concatenate([one.variance for one in own]))
        variance, square = (
            [part.mean() for part in np.array_split(joined(own, what)[order], BINS)]
            for what in ("variance", "square")
        )
        left.plot(variance, square, "o-", color=colour, label=name, markersize=4)
        for deviations, line in ((1, "o-"), (2, "s--")):
            shares = [100 * one.within(deviations) for one in own]
            right.plot([one.sigma for one in own], shares, line, color=colour, markersize=4)
    left.set(xscale="log", yscale="log", xlabel="variance", ylabel="mean squared error")
    diagonal(left)
    left.legend(fontsize=8)
    for share in (68.3, 95.4):
        right.axhline(share, color="black", linewidth=0.8, linestyle=":")
    right.set(xscale="log", xlabel="σ", ylabel="% of numbers within one (two, dashed) std")
    right.set_xticks(SIGMAS, [f"{sigma:g}" for sigma in SIGMAS])
    right.minorticks_off()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def colours(results: list[Scored]) -> dict[str, str]:
    """Return a colour for each name."""
    names = dict.fromkeys(one.name for one in results)
    return {name: f"C{number}" for number, name in enumerate(names)}


def joined(results: list[Scored], what: str) -> Numbers:
    """Return an attribute of several results, one after the other."""
    return np.concatenate([getattr(one, what) for one in results])


def diagonal(axis: Axes) -> None:
    """Draw the line on which both coordinates are equal."""
    low, high = axis.get_xlim()
    axis.axline((low, low), (high, high), color="black", linewidth=0.8)


def main() -> None:
    """Draw the plots and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", metavar="NAME=IMAGES.npy:INDEX")
    parser.add_argument("--out", type=Path, required=True, help="existing folder for the plots")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--size", type=int, help="cut the images to squares of this side")
    arguments = parser.parse_args()
    results = []
    for one in arguments.sets:
        name, _, paths = one.partition("=")
        source, _, index = paths.partition(":")
        stack = np.load(source)[: arguments.images, : arguments.size, : arguments.size]
        images = [np.asarray(x / 255 if stack.dtype == np.uint8 else x, np.float64) for x in stack]
        results += [score(name, images, Path(index), sigma) for sigma in SIGMAS]
    print_rows([one.row() for one in results], "scores")
    draw_scores(results, arguments.out / "scores.png")
    draw_coverage(results, arguments.out / "coverage.png")


if __name__ == "__main__":
    main()
