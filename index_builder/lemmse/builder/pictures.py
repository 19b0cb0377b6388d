"""Measure which refinement gives the best pictures, on training images that were held out."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from lemmse.builder.held_out import hold_out
from lemmse.estimator import Reconstructor
from lemmse.index import Index
from lemmse.index.progress import Progress
from lemmse.index.sources import intensities
from lemmse.index.storage.calibration_record import Calibration
from lemmse.index.storage.picture_record import PAPER, Pictures, Refinement

__all__ = ["PICTURE_SIGMAS", "measure_pictures"]

PICTURE_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""From noise that is hardly seen to noise that hides nearly all."""
_GAUSSIAN_SHARES = (0.01, 1.0)
"""Where training patches are near, a hundredth hardly counts; where none is, it is all there is."""
_BANDWIDTHS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)
_ACCURACY_DB = 45.0
"""What approximation takes from a picture of 30 dB is then a tenth of a dB, nearly the same for all ways."""
_IMAGES = 16
_SIDE = 32
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
    """Reconstruct images that are taken out of the index for it, in several ways.

    The same images, with the same noise, are taken out of every index of these images.

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
    view, numbers = hold_out(index, rng, _IMAGES)
    progress("measure pictures", 0, len(sigmas))
    reconstructor = Reconstructor(replace(view, manifest=replace(view.manifest, calibration=calibration)))
    stack = index.images()
    images = [_middle(intensities(stack[k])) for k in numbers]
    shares = _GAUSSIAN_SHARES if index.manifest.gaussians else (0.0,)
    ways = [PAPER, *(Refinement("overlap", gaussian_share=share) for share in shares)]
    rows = []
    for done, sigma in enumerate(sigmas):
        noisy = [(x + sigma * rng.standard_normal(x.shape)).astype(np.float32) for x in images]

        def reached(way: Refinement, sigma: float = sigma, noisy: Sequence[_Picture] = noisy) -> float:
            asked = {"sigma": sigma, "mode": "hybrid", "accuracy_db": _ACCURACY_DB, **asdict(way)}
            return _psnr([reconstructor.reconstruct(y, **asked).image for y in noisy], images)

        found = {way: reached(way) for way in ways}
        best = max(found, key=lambda way: found[way])
        for bandwidth in _BANDWIDTHS:  # as long as they help
            wider = replace(best, bandwidth=bandwidth)
            found[wider] = reached(wider)
            if found[wider] <= found[best]:
                break
            best = wider
        rows.append((best, found[best], found[PAPER], _psnr(noisy, images)))
        progress("measure pictures", done + 1, len(sigmas))
    refinements, best_db, paper_db, noisy_db = zip(*rows, strict=True)
    return Pictures(len(images), tuple(sigmas), refinements, best_db, paper_db, noisy_db)


def _psnr(results: Sequence[_Picture], images: Sequence[_Picture]) -> float:
    """Mean PSNR in dB for intensities in [0, 1]."""
    squared = [np.square(a - b).mean(dtype=np.float64) for a, b in zip(results, images, strict=True)]
    return float(np.mean([-10 * math.log10(max(error, 1e-12)) for error in squared]))


def _middle(image: _Picture) -> _Picture:
    top, left = (max(0, length - _SIDE) // 2 for length in image.shape[:2])
    return image[top : top + _SIDE, left : left + _SIDE]
