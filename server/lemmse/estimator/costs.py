"""Estimates of the work of a request, before any of it is done.

Work is counted in multiply-adds of the exact sum: one for each coordinate of each pair of a query patch and a
distinct key. Other work is converted by the time that it takes.
"""

import math
from dataclasses import replace

import numpy as np

from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator.backend import Backend
from lemmse.estimator.half_quadratic import split_sigmas
from lemmse.estimator.image_noise import sample_size
from lemmse.estimator.modes import is_cheap
from lemmse.estimator.planning import requested_accuracy
from lemmse.estimator.refinement import splits
from lemmse.estimator.signal_noise import MOST_MAPS
from lemmse.estimator.sum_spec import DEFAULT_K, DEFAULT_NPROBE

__all__ = [
    "derivative_work",
    "estimate_work",
    "exact_work",
    "exclusion_work",
    "explanation_work",
    "pixels_of",
    "request_work",
]

_SEARCH = 4.0
"""Time of mode topk for a key that it visits, relative to that of the exact sum."""
_UNCALIBRATED = 0.5
"""Time of mode hybrid without a calibration, relative to that of the exact sum; it may be far less."""
_WEIGHTED = 2.0
"""Time of products with a precision for each pixel, relative to those with white noise."""
_DERIVATIVE = 4.0
"""Products with all keys for a derivative: of scores, directions, means and covariances."""
_COPIED = 100.0
"""Time of copying a coordinate of a key, and of what else a view without some images takes."""
_ESTIMATE = 2.0
"""Time to estimate noise, relative to that of projecting patches on the axes of all Gaussians."""
_TRANSFORM = 8.0
"""Time of a Fourier transform of n pixels, in units of n log2 n multiply-adds."""


def exact_work(backend: Backend, pixels: int, *, weighted: bool = False) -> float:
    """Return the work of the exact sum for some pixels.

    Parameters
    ----------
    backend : Backend
        The keys.
    pixels : int
        Number of query patches.
    weighted : bool
        Whether there is a precision for each pixel.
    """
    manifest = backend.index.manifest
    # Of strata that exclude each other, one counts for each query.
    keys = manifest.distinct / (len(backend.index.strata) if backend.index.strata.exclusive else 1)
    return pixels * keys * backend.index.patch_length * (_WEIGHTED if weighted else 1.0)


def pixels_of(backend: Backend, measurement: Measurement) -> int:
    """Return the number of pixels of a measurement, which for an index of volumes are those of all planes."""
    return math.prod(measurement.y.shape[: backend.index.manifest.axes])


def exclusion_work(backend: Backend) -> float:
    """Return the work of leaving some training images out, before any sum."""
    return _COPIED * backend.index.manifest.distinct * backend.index.patch_length


def estimate_work(backend: Backend, pixels: int) -> float:
    """Return the expected work to estimate the noise of an image with so many pixels."""
    manifest = backend.index.manifest
    return _ESTIMATE * sample_size(pixels) * manifest.gaussians * float(backend.index.patch_length**2)


def request_work(backend: Backend, measurement: Measurement, options: Options) -> float:
    """Return the expected work of a reconstruction.

    Parameters
    ----------
    backend : Backend
        The keys.
    measurement : Measurement
        The measurement.
    options : Options
        The options.
    """
    pixels = pixels_of(backend, measurement)
    if measurement.gain is not None:
        first = estimate_work(backend, pixels) if measurement.is_estimated else 0.0
        one = replace(measurement, sigma=1.0, gain=None, mask=np.broadcast_to(True, measurement.y.shape))
        return first + MOST_MAPS * request_work(backend, one, options)
    if isinstance(measurement.sigma, str):
        first = estimate_work(backend, pixels)
        known = (replace(measurement, sigma=sigma) for sigma in _calibrated_sigmas(backend))
        return first + max(request_work(backend, one, options) for one in known)
    if options.estimator != "le-mmse":
        return _whole_image_work(backend, measurement, options)
    rms = float(np.sqrt(np.square(measurement.sigma).mean()))
    if splits(backend.index, rms, options):
        _, *finer = split_sigmas(rms)
        options = replace(options, aggregate="overlap")
        white = [replace(measurement, sigma=sigma, mask=None) for sigma in finer]
        again = () if options.gaussian_share == 0 else white  # with adapted Gaussians
        return sum(request_work(backend, one, options) for one in (measurement, *white, *again))
    sigma = measurement.sigma if isinstance(measurement.sigma, float) else None
    weighted = sigma is None or measurement.mask is not None
    exact = exact_work(backend, pixels, weighted=weighted)
    if options.mode == "topk":
        return exact * _topk_share(backend, options)
    cheap = options.mode == "auto" and is_cheap(backend, pixels, exact)
    if options.mode == "exact" or cheap or not backend.compiled_hybrid:  # on a GPU, about the same
        return exact
    search = _topk_share(backend, options) if "source" in options.maps else 0.0
    return exact * min(1.0, _hybrid_share(backend, options, None if weighted else sigma) + search)


def _hybrid_share(backend: Backend, options: Options, sigma: float | None) -> float:
    """Return the time of mode hybrid relative to that of the exact sum; sigma is None if it varies."""
    calibration = backend.index.manifest.calibration
    if calibration is None or sigma is None or not sigma > 0:
        return _UNCALIBRATED
    return min(1.0, calibration.plan(sigma, requested_accuracy(options)).cost)


def _calibrated_sigmas(backend: Backend) -> tuple[float, ...]:
    """Return the σ at which the time of hybrid is known; any σ if it is not known."""
    calibration = backend.index.manifest.calibration
    return (1.0,) if calibration is None else calibration.sigmas


def derivative_work(backend: Backend, measurement: Measurement, options: Options) -> float:
    """Return the expected work of the derivative of a reconstruction times a vector."""
    has_map = not isinstance(measurement.sigma, float | str) or measurement.gain is not None
    weighted = has_map or measurement.mask is not None
    product = _DERIVATIVE * exact_work(backend, pixels_of(backend, measurement), weighted=weighted)
    return product + _noise_work(backend, measurement, options)


def explanation_work(backend: Backend, measurement: Measurement) -> float:
    """Return the expected work of the explanation of a pixel."""
    return exact_work(backend, 1) + _noise_work(backend, measurement, Options())


def _noise_work(backend: Backend, measurement: Measurement, options: Options) -> float:
    """Return the expected work of finding the noise of a measurement, before it is answered."""
    if measurement.gain is not None:
        return request_work(backend, measurement, options)
    return estimate_work(backend, pixels_of(backend, measurement)) if measurement.is_estimated else 0.0


def _topk_share(backend: Backend, options: Options) -> float:
    """Return the time of mode topk relative to that of the exact sum."""
    index = backend.index
    visited = (options.nprobe or DEFAULT_NPROBE) / index.manifest.cells
    found = (options.k or DEFAULT_K) / index.manifest.distinct
    return min(1.0, _SEARCH * max(visited, found))


def _whole_image_work(backend: Backend, measurement: Measurement, options: Options) -> float:
    numbers = backend.index.manifest.images * measurement.y.size
    if options.estimator == "mmse":
        return float(numbers)
    return numbers * _TRANSFORM * math.log2(2 * measurement.y.size)
