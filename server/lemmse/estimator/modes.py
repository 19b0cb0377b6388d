"""The choice of the mode: that of the options, unless another one is faster or the only one possible.

docs/mathematics.md describes how mode auto chooses.
"""

import math
from dataclasses import replace

from lemmse.contract.options import Options
from lemmse.estimator.backend import Backend
from lemmse.estimator.image_queries import ImageQueries
from lemmse.estimator.rate_measurement import measure_times
from lemmse.estimator.rates import LEAST_PIXELS
from lemmse.estimator.sum_spec import DEFAULT_K, SumSpec
from lemmse.estimator.sums import Outputs
from lemmse.index.storage.calibration_record import OperatingPoint

__all__ = ["choose_mode", "is_cheap"]

_FEW = 10
"""Mode topk sums fewer than one in so many of the keys of a stratum; otherwise the exact sum is faster."""


def choose_mode(
    backend: Backend,
    queries: ImageQueries,
    options: Options,
    outputs: Outputs,
    accuracy_db: float,
    point: OperatingPoint | None,
) -> str:
    """Return the mode of the sums for an image: exact, topk or hybrid.

    Parameters
    ----------
    backend : Backend
        The keys.
    queries : ImageQueries
        The query patches.
    options : Options
        The options.
    outputs : Outputs
        What is summed, but for the bounds of a certified error.
    accuracy_db : float
        Requested agreement with the exact sum, PSNR in dB.
    point : OperatingPoint, optional
        What is to be expected of hybrid at this σ; None if it is not calibrated.
    """
    auto, compiled = options.mode == "auto", backend.compiled_hybrid
    if options.mode == "exact":
        return "exact"
    if options.mode == "topk":
        few = (options.k or DEFAULT_K) * _FEW < max(backend.extent.counts)
        return "topk" if few or not backend.searches else "exact"
    if auto and is_cheap(backend, queries.pixels, queries.work * backend.index.patch_length):
        return "exact"
    if auto and point is not None and (point.accuracy_db < accuracy_db or point.cost >= 1):
        return "exact"
    computed = replace(outputs, bounds=options.certified)
    if not backend.hybrid_computes(computed, white=queries.sigma is not None):
        return "exact"
    if not compiled and options.budget is not None:
        return "exact"  # the kernels of a GPU sum whole groups of keys, whatever the budget
    if not compiled and auto and not _hybrid_is_faster(backend, queries, outputs, accuracy_db):
        return "exact"
    return "hybrid"


def is_cheap(backend: Backend, pixels: int, work: float) -> bool:
    """Return whether mode auto is exact for so many pixels, whatever was calibrated and measured.

    Parameters
    ----------
    backend : Backend
        The keys.
    pixels : int
        Number of pixels.
    work : float
        Multiply-adds of the exact sum.
    """
    return work <= backend.most_exact_work if backend.compiled_hybrid else pixels < LEAST_PIXELS


def _hybrid_is_faster(backend: Backend, queries: ImageQueries, outputs: Outputs, accuracy_db: float) -> bool:
    """Return whether hybrid is expected to be faster on a GPU, by measured times of images alike."""
    if queries.sigma is None or not queries.work:
        return False
    alike = round(2 * math.log2(queries.sigma)), accuracy_db, outputs, queries.gaussian_share > 0
    if alike not in backend.times:
        spec = SumSpec("hybrid", outputs=replace(outputs, error=True))
        times = measure_times(queries, spec, backend.index, queries.sigma, accuracy_db)
        backend.times[alike] = times
    return backend.times[alike].favour_hybrid(queries.pixels)
