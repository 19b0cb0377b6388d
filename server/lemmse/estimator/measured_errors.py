"""Errors of mode hybrid relative to the exact sum, and how its estimates of them must be scaled."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

__all__ = ["ROUNDING", "MeasuredErrors", "measure_errors"]

_QUANTILE = 0.995
"""Share of pixels whose error is below the scaled estimate: more than the documented 95 %, so that it covers
the worst pixels as well."""
ROUNDING = 1e-5
"""Errors below this are due to float32 rounding."""


class MeasuredErrors(NamedTuple):
    """The agreement of a sample of pixels, and factors for their estimated errors."""

    accuracy_db: float
    """PSNR relative to the exact means, in dB."""
    error_scale: float
    """Factor that few pixels exceed."""
    overlap_error_scale: float
    """The same for patches that overlap."""
    rms_scale: float
    """Factor for the mean square of the errors."""


def measure_errors(mean: Tensor, exact: Tensor, error: Tensor, patch_pixels: int) -> MeasuredErrors:
    """Return the errors of some means.

    Parameters
    ----------
    mean, exact, error : Tensor
        Means of hybrid, exact means, and estimated errors, (Q, T) each.
    patch_pixels : int
        Number of pixels of a patch.
    """
    off, estimated = (mean - exact).abs().cpu().numpy(), error.cpu().numpy()
    square = float(np.square(off).mean())
    factors = np.maximum(off - ROUNDING, 0) / np.maximum(estimated, ROUNDING)
    # An underestimated patch affects all of its pixels.
    own, overlapped = np.quantile(factors, [_QUANTILE, 1 - (1 - _QUANTILE) / patch_pixels]).tolist()
    return MeasuredErrors(
        accuracy_db=float(-10 * np.log10(max(square, ROUNDING**2))),
        error_scale=own,
        overlap_error_scale=overlapped,
        rms_scale=float(np.sqrt(square / max(np.square(estimated).mean(), ROUNDING**2))),
    )
