"""Unknown noise, and scores without the truth.

    python -m benchmarks.noise IMAGES.npy INDEX [OTHER_INDEX...] [--images N] [--size N] [--only TABLE]

IMAGES.npy has clean images, (N, H, W, C), uint8 or float, that are not in INDEX, but like its training
images; they are not like those of the other indexes. White noise is added, and counts of photons are drawn.
For each σ,

    estimate    has the root mean square relative errors of σ: of the median of Haar coefficients (MAD), of
                scikit-image's estimate_sigma, and of lemmse; the mean relative error and mean standard error
                of lemmse, and the root mean square of the errors in units of the latter; the error for uint8
                images, and the mean relative difference of the noise that clipping leaves
    scores      has the PSNR with the true σ and the loss with the estimate, in dB, mean and worst; the root
                mean square error of expected_psnr_db with either; the mean misfit, and that of the first
                other index; how often quality="best" among all indexes takes the one with the highest PSNR,
                with either, and by how much PSNR is below that, in dB

For each peak, the mean number of counts for white,

    counts      has the PSNR in dB of the noisy images, of BM3D between Anscombe's transform and its unbiased
                inverse, and of lemmse with aggregate overlap, or with `--quality best` or `epll`: with white
                noise of the mean variance, with the gain that was used and no dark noise, and with both
                estimated; and the seconds of processor time for an image with white noise, and with the gain
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import estimate_sigma

from benchmarks.measures import print_rows
from benchmarks.quality.classical import load_bm3d
from lemmse.client import Client, Result, connect
from lemmse.estimator.noise_estimate import median_sigma

PEAKS = (1, 4, 16, 64, 255)
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)
ASKED: dict[str, Any] = {"mode": "hybrid", "accuracy_db": 40.0}

Image = NDArray[np.float64]
COUNTED: dict[str, dict[str, Any]] = {
    "paper": {"aggregate": "overlap"},
    "best": {"quality": "best"},
    "epll": {"aggregate": "epll", "gaussian_share": 1.0},
}
"""What is asked for in table counts."""


def noisy(images: list[Image], sigma: float) -> Iterator[tuple[Image, Image]]:
    """Yield each image with a noisy copy."""
    rng = np.random.default_rng(3)
    for x in images:
        yield x, x + sigma * rng.standard_normal(x.shape)


def rms(values: object) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.square(np.asarray(values, np.float64)).mean()))


def psnr(result: Result, x: Image) -> float:
    """Return the PSNR of a reconstruction, in dB."""
    return float(-10 * np.log10(np.square(result.image - x).mean()))


def estimates(client: Client, index: str, images: list[Image], sigma: float) -> dict[str, object]:
    """Return a row of table estimate."""
    mad, other, own, error, clipped, left = [], [], [], [], [], []
    for x, y in noisy(images, sigma):
        found = client.estimate_noise(y, index=index)
        own.append(rms(found.sigma) / sigma - 1)
        error.append(rms(found.sigma_error) / sigma)
        mad.append(float(np.mean(median_sigma(y, np.ones(y.shape, np.bool_)))) / sigma - 1)
        other.append(float(np.mean(estimate_sigma(y, channel_axis=-1))) / sigma - 1)
        bytes_ = np.clip(np.round(255 * y), 0, 255).astype(np.uint8)
        clipped.append(rms(client.estimate_noise(bytes_, index=index).sigma) / sigma - 1)
        left.append(rms(bytes_ / 255 - x) / sigma - 1)
    return {
        "sigma": sigma,
        "MAD": f"{rms(mad):.3f}",
        "skimage": f"{rms(other):.3f}",
        "lemmse": f"{rms(own):.3f}",
        "bias": f"{np.mean(own):+.3f}",
        "error": f"{np.mean(error):.3f}",
        "z": f"{rms(np.divide(own, error)):.2f}",
        "clipped": f"{rms(clipped):.3f}",
        "noise left": f"{np.mean(left):+.3f}",
    }


def scores(
    client: Client, index: str, others: list[str], images: list[Image], sigma: float
) -> dict[str, object]:
    """Return a row of table scores."""
    rows: list[list[Any]] = [[] for _ in range(10)]
    true, loss, off, off_auto, misfit, misfit_other, right, right_auto, behind, behind_auto = rows
    for x, y in noisy(images, sigma):
        known = client.reconstruct(y, sigma=sigma, index=index, **ASKED)
        auto = client.reconstruct(y, sigma="auto", index=index, **ASKED)
        true.append(psnr(known, x))
        loss.append(psnr(known, x) - psnr(auto, x))
        for result, off_by in ((known, off), (auto, off_auto)):
            expected = result.diagnostics.expected_psnr_db
            off_by.append(np.nan if expected is None else expected - psnr(result, x))
        misfit.append(known.diagnostics.misfit)
        if others:
            unlike = client.reconstruct(y, sigma=sigma, index=others[0], **ASKED)
            misfit_other.append(unlike.diagnostics.misfit)
            best: dict[str, Any] = {"quality": "best", **ASKED}
            by_index = {
                name: psnr(client.reconstruct(y, sigma=sigma, index=name, **best), x)
                for name in (index, *others)
            }
            first = max(by_index, key=lambda name: by_index[name])
            asked: tuple[Any, ...] = (sigma, right, behind), ("auto", right_auto, behind_auto)
            for s, taken, lost in asked:
                name = client.reconstruct(y, sigma=s, **best).diagnostics.index
                taken.append(name == first)
                lost.append(by_index[first] - by_index[name])
    row: dict[str, object] = {
        "sigma": sigma,
        "PSNR": f"{np.mean(true):.2f}",
        "loss": f"{np.mean(loss):.3f}",
        "worst": f"{np.max(loss):.2f}",
        "score": f"{rms(off):.2f}",
        "score auto": f"{rms(off_auto):.2f}",
        "misfit": f"{np.mean(misfit):.5f}",
    }
    if others:
        row |= {
            "other's": f"{np.mean(misfit_other):.5f}",
            "right": f"{sum(right)}/{len(right)}",
            "behind": f"{np.mean(behind):.3f}",
            "right auto": f"{sum(right_auto)}/{len(right_auto)}",
            "behind auto": f"{np.mean(behind_auto):.3f}",
        }
    return row


def by_anscombe(y: Image, gain: float, denoise: Callable[[Image, float], Image]) -> Image:
    """Return an image of counts, denoised as one of white noise.

    References
    ----------
    M. Mäkitalo, A. Foi, A closed-form approximation of the exact unbiased inverse of the Anscombe variance-
    stabilizing transformation, IEEE Transactions on Image Processing 20 (2011).
    """
    stable = 2 * np.sqrt(y / gain + 3 / 8)
    low, span = stable.min(), np.ptp(stable) or 1.0
    d = np.maximum(denoise((stable - low) / span, 1 / span) * span + low, 2 * np.sqrt(3 / 8))
    root = np.sqrt(3 / 2)
    counts = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 1 / 8
    return np.asarray(gain * np.maximum(counts, 0))


def counts(
    client: Client,
    index: str,
    images: list[Image],
    peak: int,
    denoise: Callable[[Image, float], Image],
    quality: str,
) -> dict[str, object]:
    """Return a row of table counts."""
    asked: dict[str, Any] = COUNTED[quality]
    gain = 1 / peak
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for k, x in enumerate(images):
        y = np.asarray(gain * np.random.default_rng([k, peak]).poisson(x / gain), np.float64)
        add("noisy", -10 * np.log10(np.square(y - x).mean()))
        add("BM3D", -10 * np.log10(np.square(by_anscombe(y, gain, denoise) - x).mean()))
        ways: dict[str, dict[str, Any]] = {
            "white": {"sigma": float(np.sqrt(gain * (y.mean() + 3 / 8 * gain)))},
            "stated": {"noise": "poisson-gaussian", "gain": gain, "sigma": 0.0},
            "estimated": {"noise": "poisson-gaussian", "sigma": "auto"},
        }
        for name, noise in ways.items():
            start = time.process_time()
            result = client.reconstruct(y, index=index, **ASKED, **asked, **noise)
            seconds = time.process_time() - start
            add(name, psnr(result, x))
            if name != "estimated":
                add(f"s, {name}", seconds)
    return {"peak": peak} | {name: f"{np.mean(values):.2f}" for name, values in found.items()}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("indexes", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--only", choices=("estimate", "scores", "counts"))
    parser.add_argument("--quality", choices=COUNTED, default="paper", help="of table counts")
    parser.add_argument("--size", type=int, help="cut the images to squares of this side")
    arguments = parser.parse_args()
    stack = np.load(arguments.source)[: arguments.images]
    stack = stack[:, : arguments.size, : arguments.size]
    images = [np.asarray(x / 255 if stack.dtype == np.uint8 else x, np.float64) for x in stack]
    index, *others = (path.name for path in arguments.indexes)
    with connect(*arguments.indexes) as client:
        if arguments.only in (None, "estimate"):
            print_rows([estimates(client, index, images, sigma) for sigma in SIGMAS], f"{index}: estimate")
        if arguments.only in (None, "scores"):
            print_rows([scores(client, index, others, images, sigma) for sigma in SIGMAS], f"{index}: scores")
        if arguments.only in (None, "counts"):
            asked = load_bm3d(), arguments.quality
            print_rows([counts(client, index, images, peak, *asked) for peak in PEAKS], f"{index}: counts")


if __name__ == "__main__":
    main()
