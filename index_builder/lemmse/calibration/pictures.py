"""Search for the refinement with the highest PSNR at each noise level, on held-out training images."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from lemmse.calibration.held_out import HeldOut, hold_out, some_of, windows
from lemmse.estimator import Reconstructor
from lemmse.index import Index
from lemmse.index.callbacks import Progress, silent
from lemmse.index.storage import PAPER, Calibration, Pictures, Refinement

__all__ = ["PICTURE_SIGMAS", "measure_pictures"]

PICTURE_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Noise levels, from barely visible to almost hiding the image."""
_GAUSSIAN_SHARES = (0.01, 1.0)
"""Candidates for the Gaussian share; 0.01 has an effect only where no training patch is near."""
_BANDWIDTHS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)
_ACCURACY_DB = 40.0
"""Accuracy of the measurement, in dB; hybrid gives more, what is lost is about equal for all candidates."""
_IMAGES = 8
_SIDE = 16
"""Side of the central crop of larger images, in pixels."""

_Picture = NDArray[np.float32]


def measure_pictures(
    index: Index,
    calibration: Calibration,
    *,
    held_out: HeldOut | None = None,
    seed: int = 0,
    sigmas: Sequence[float] = PICTURE_SIGMAS,
    progress: Progress = silent,
) -> Pictures:
    """Return the best refinement at each noise level, from reconstructions of held-out images.

    For all indexes of the same training images, the same images are held out and the same noise is added.

    Parameters
    ----------
    index : Index
        The index, of physics and pre-inverse identity, with white or correlated noise; it is not changed.
    calibration : Calibration
        The calibration of mode hybrid on it.
    held_out : HeldOut, optional
        The images of which some are measured on, from `hold_out`; by default they are drawn by `seed`.
    seed : int
        Seed of the choice of images, and of the noise.
    sigmas : sequence of float
        Noise standard deviations at which to measure, in intensities, ascending.
    progress : callable
        Called as `progress(stage, done, total)`.

    Raises
    ------
    InvalidArgument
        The index has too few images to hold one out.
    """
    view, numbers = hold_out(index, seed) if held_out is None else held_out
    rng = np.random.default_rng(seed)
    progress("measure pictures", 0, len(sigmas))
    reconstructor = Reconstructor(view.with_calibration(calibration))
    images = [_middle(x) for x in windows(index, some_of(numbers, _IMAGES))]
    centre = index.manifest.patch_depth // 2
    clean = [x[centre] for x in images]
    shares = _GAUSSIAN_SHARES if index.manifest.gaussians else (0.0,)
    candidates = [PAPER, *(Refinement("overlap", gaussian_share=share) for share in shares)]
    rows = []
    for done, sigma in enumerate(sigmas):
        noise = (np.stack([index.problem.sample_noise(plane.shape, rng) for plane in x]) for x in images)
        noisy = [(x + sigma * e).astype(np.float32) for x, e in zip(images, noise, strict=True)]

        def psnr(refinement: Refinement, sigma: float = sigma, noisy: Sequence[_Picture] = noisy) -> float:
            options = {"sigma": sigma, "mode": "hybrid", "accuracy_db": _ACCURACY_DB, **asdict(refinement)}
            # An image has one plane, which is without its axis in a request.
            results = (reconstructor.reconstruct(y if centre else y[0], **options).image for y in noisy)
            return _psnr([x[centre] if centre else x for x in results], clean)

        found = {refinement: psnr(refinement) for refinement in candidates}
        best = max(found, key=lambda refinement: found[refinement])
        for bandwidth in _BANDWIDTHS:  # until the PSNR decreases
            wider = replace(best, bandwidth=bandwidth)
            found[wider] = psnr(wider)
            if found[wider] <= found[best]:
                break
            best = wider
        if best.aggregate == "overlap" and index.problem.white:
            iterated = replace(best, aggregate="epll")
            found[iterated] = psnr(iterated)
            best = max(best, iterated, key=lambda refinement: found[refinement])
        rows.append((best, found[best], found[PAPER], _psnr([y[centre] for y in noisy], clean)))
        progress("measure pictures", done + 1, len(sigmas))
    refinements, best_db, paper_db, noisy_db = zip(*rows, strict=True)
    return Pictures(len(images), tuple(sigmas), refinements, best_db, paper_db, noisy_db)


def _psnr(results: Sequence[_Picture], images: Sequence[_Picture]) -> float:
    """Return the mean PSNR in dB, for intensities in [0, 1]."""
    squared = [np.square(a - b).mean(dtype=np.float64) for a, b in zip(results, images, strict=True)]
    return float(np.mean([-10 * math.log10(max(error, 1e-12)) for error in squared]))


def _middle(image: _Picture) -> _Picture:
    """Return the central crop of an image, (p_z, H, W, C), of at most _SIDE × _SIDE pixels."""
    top, left = (max(0, length - _SIDE) // 2 for length in image.shape[1:3])
    return image[:, top : top + _SIDE, left : left + _SIDE]
