"""The measurement of `Times`, on an image that is to be reconstructed."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from lemmse.estimator.cancellation import never
from lemmse.estimator.image_queries import ImageQueries
from lemmse.estimator.rates import Times
from lemmse.estimator.sampled_calibration import calibrate_on_sample
from lemmse.estimator.sum_spec import SumSpec
from lemmse.index import Index
from lemmse.index.storage.calibration_record import OperatingPoint

__all__ = ["measure_times"]

T = TypeVar("T")

_BLOCK = 8192
"""Number of pixels to measure with."""


def measure_times(
    queries: ImageQueries, spec: SumSpec, index: Index, sigma: float, accuracy_db: float
) -> Times:
    """Return the times for images like one, from sums for a block of its pixels.

    Everything is done twice, and the first time, in which kernels are compiled and tuned, is not counted.

    Parameters
    ----------
    queries : ImageQueries
        The query patches of the image.
    spec : SumSpec
        The specification of the sums in mode hybrid; its threshold is not used. It is not polled: another
        request would have its turn, and the time of that would count.
    index : Index
        The index.
    sigma : float
        Standard deviation of query minus key.
    accuracy_db : float
        Requested agreement with the exact sum, PSNR in dB.
    """
    spec = replace(spec, cancelled=never)
    count = min(_BLOCK, queries.pixels)
    n = np.arange(count) + (queries.pixels - count) // 2

    def sums(one: SumSpec) -> None:
        queries.sums(n, one).log_max.cpu()  # waits for the GPU

    def calibrated() -> OperatingPoint:
        return calibrate_on_sample(queries, spec, index, sigma, accuracy_db).plan(sigma, accuracy_db)

    exact, _ = _timed(lambda: sums(spec.exact()))
    calibration, point = _timed(calibrated)
    hybrid = math.inf
    if point.accuracy_db >= accuracy_db:
        hybrid, _ = _timed(lambda: sums(replace(spec, threshold=point.threshold)))
    return Times(exact / count, hybrid / count, calibration)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the time of a function that is called for the second time, and its result."""
    work()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
