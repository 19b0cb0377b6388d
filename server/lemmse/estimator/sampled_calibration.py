"""The calibration of mode hybrid for one image, on a sample of its own pixels.

On a GPU, the exact sum over a thousand pixels takes milliseconds. So a request measures for itself which
threshold its image needs, where a CPU relies on a calibration with other images.
"""

from dataclasses import replace

import numpy as np

from lemmse.estimator.image_queries import ImageQueries
from lemmse.estimator.measured_errors import MeasuredErrors, measure_errors
from lemmse.estimator.sum_spec import SumSpec
from lemmse.index import Index
from lemmse.index.storage import Calibration

__all__ = ["calibrate_on_sample"]

_PIXELS = 1024
"""Number of pixels in the sample; all if there are fewer."""
_THRESHOLDS = (3.0, 1.5, 0.0, -1.5, -3.0, -4.5, -6.0, -7.5, -9.0)
"""In order of increasing work."""
_MARGIN_DB = 3.0
"""The sample must agree by this more than the image: it has few of the pixels with large errors."""
_ENOUGH_DB = 9.0
"""Thresholds are not measured beyond an agreement that is this much higher than requested."""


def calibrate_on_sample(
    queries: ImageQueries, spec: SumSpec, index: Index, sigma: float, accuracy_db: float
) -> Calibration:
    """Return the calibration of hybrid for an image at one σ.

    Parameters
    ----------
    queries : ImageQueries
        The query patches of the image.
    spec : SumSpec
        The specification of the sums, which include the error; its threshold is not used.
    index : Index
        The index.
    sigma : float
        Standard deviation of query minus key.
    accuracy_db : float
        Requested agreement with the exact sum, PSNR in dB.

    Raises
    ------
    Cancelled
        `spec.cancelled()` was true.
    """
    channels, pixels = index.manifest.channels, index.manifest.patch_pixels
    count = min(_PIXELS, queries.pixels)
    n = np.sort(np.random.default_rng(0).permutation(queries.pixels)[:count])
    exact = queries.sums(n, spec.exact()).posterior(channels).mean
    columns: list[tuple[MeasuredErrors, float]] = []
    for threshold in _THRESHOLDS:
        if columns and columns[-1][0].accuracy_db >= accuracy_db + _ENOUGH_DB:
            columns.append(columns[-1])
            continue
        sums = queries.sums(n, replace(spec, threshold=threshold))
        posterior, keys = sums.posterior(channels), float(sums.keys_evaluated.double().mean())
        columns.append((measure_errors(posterior.mean, exact, posterior.error, pixels), keys))
    measured, touched = [errors for errors, _ in columns], tuple(keys for _, keys in columns)
    return Calibration(
        images=1,
        sigmas=(sigma,),
        queries=(count,),
        thresholds=_THRESHOLDS,
        accuracy_db=(tuple(one.accuracy_db - _MARGIN_DB for one in measured),),
        keys_touched=(touched,),
        cost=(tuple(keys / index.manifest.distinct for keys in touched),),
        error_scale=(tuple(one.error_scale for one in measured),),
        overlap_error_scale=(tuple(one.overlap_error_scale for one in measured),),
        rms_scale=(tuple(one.rms_scale for one in measured),),
    )
