"""Measure which aggregate and bandwidth give the best pictures, on training images that were held out."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lemmse.builder.calibrate import held_out
from lemmse.estimator import AGGREGATES, Reconstructor
from lemmse.index import Calibration, Index, Pictures, Progress
from lemmse.index.sources import intensities

__all__ = ["PICTURE_SIGMAS", "measure_pictures"]

PICTURE_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""From noise that is hardly seen to noise that hides nearly all."""
_BANDWIDTHS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)
"""Tried in this order, until two in a row are worse than the best: one bandwidth is the best, and those
farther from it are worse."""
_IMAGES = 8
_SIDE = 64
"""Of larger images the middle is measured."""

_Picture = NDArray[np.float32]


def measure_pictures(
    index: Index,
    calibration: Calibration,
    *,
    seed: int = 0,
    sigmas: Sequence[float] = PICTURE_SIGMAS,
    progress: Progress = lambda stage, done, total: None,
) -> Pictures:
    """Reconstruct images that are taken out of the index for it, in all ways.

    Parameters
    ----------
    index : Index
        The index, of physics and pre-inverse identity; it is not changed.
    calibration : Calibration
        What hybrid gives for its work on it.
    seed : int
        Seed of the choice of images, and of the noise.
    sigmas : sequence of float
        Noise standard deviations to measure at, ascending.
    progress : callable
        Called as `progress(stage, done, total)`.

    Raises
    ------
    InvalidArgument
        The index has too few images to hold one out.
    """
    rng = np.random.default_rng(seed)
    view = held_out(index, rng, _IMAGES)
    reconstructor = Reconstructor(replace(view, manifest=replace(view.manifest, calibration=calibration)))
    stack = index.images()
    images = [_middle(intensities(stack[k])) for k in view.images_out]
    rows = []
    for done, sigma in enumerate(sigmas):
        noisy = [(x + sigma * rng.standard_normal(x.shape)).astype(np.float32) for x in images]
        rows.append(_best(reconstructor, images, noisy, sigma))
        progress("measure pictures", done + 1, len(sigmas))
    aggregates, bandwidths, best_db, paper_db, noisy_db = zip(*rows, strict=True)
    return Pictures(
        images=len(images),
        sigmas=tuple(sigmas),
        aggregates=aggregates,
        bandwidths=bandwidths,
        best_db=best_db,
        paper_db=paper_db,
        noisy_db=noisy_db,
    )


def _best(
    reconstructor: Reconstructor, images: Sequence[_Picture], noisy: Sequence[_Picture], sigma: float
) -> tuple[str, float, float, float, float]:
    """The best aggregate and bandwidth at one σ, and the PSNR of these, of the paper's, and of noisy."""
    found: dict[tuple[str, float], float] = {}
    for aggregate in AGGREGATES:
        worse, best = 0, -math.inf
        for bandwidth in _BANDWIDTHS:
            results = [
                reconstructor.reconstruct(y, sigma=sigma, aggregate=aggregate, bandwidth=bandwidth).image
                for y in noisy
            ]
            found[aggregate, bandwidth] = reached = _psnr(results, images)
            worse, best = (0, reached) if reached > best else (worse + 1, best)
            if worse == 2:
                break
    aggregate, bandwidth = max(found, key=lambda setting: found[setting])
    return (
        aggregate,
        bandwidth,
        found[aggregate, bandwidth],
        found["centre", 0.0],
        _psnr(noisy, images),
    )


def _psnr(results: Sequence[_Picture], images: Sequence[_Picture]) -> float:
    """Mean PSNR in dB for intensities in [0, 1]."""
    squared = [np.square(a - b).mean(dtype=np.float64) for a, b in zip(results, images, strict=True)]
    return float(np.mean([-10 * math.log10(max(error, 1e-12)) for error in squared]))


def _middle(image: _Picture) -> _Picture:
    top, left = (max(0, length - _SIDE) // 2 for length in image.shape[:2])
    return image[top : top + _SIDE, left : left + _SIDE]
