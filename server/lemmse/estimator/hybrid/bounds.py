"""Bounds on what the groups that stay closed can add, whatever their keys are, for certified errors."""

import math

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.numbers import compiled

__all__ = ["add_bounds", "log_most"]

_LARGEST = 600.0
"""Logarithm of the largest weight worth telling from infinity."""
_ROUNDING = np.float32(1e-5)
"""Relative error that a squared distance of rotated float32 coordinates stays below."""


@compiled
def log_most(
    extent: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    log_n: np.float32,
    sigma2: np.float32,
) -> np.float32:
    """Log of what the weights of a group can add up to at most: all keys at the least distance to its extent.

    The norms of the trailing coordinates of query and key differ by no more than the vectors do.
    """
    least, size = np.float32(0.0), np.float32(1.0)
    for i in range(extent.shape[0]):
        d = max(np.float32(0.0), max(low[i] - extent[i], extent[i] - high[i]))
        least += d * d
        size += extent[i] * extent[i]
    # What float32 may have lost in the coordinates.
    least = max(np.float32(0.0), least - _ROUNDING * (least + size))
    return log_n - np.float32(0.5) * least / sigma2


@compiled
def add_bounds(
    row: NDArray[np.float64],
    about: NDArray[np.float64],
    log_most: np.float32,
    log_least: np.float32,
    target_low: NDArray[np.float32],
    target_high: NDArray[np.float32],
) -> None:
    """Add to Σ w its least, and to Σ w (t − h) its least and greatest, for weights within their bounds."""
    t_length = about.shape[0]
    if log_most > _LARGEST:  # the group may outweigh all that is known
        row[1 : 1 + t_length] = -np.inf
        row[1 + t_length :] = np.inf
        return
    least = math.exp(np.float64(log_least))
    most = max(least, math.exp(np.float64(log_most)))
    row[0] += least
    for c in range(t_length):
        below, above = target_low[c] - about[c], target_high[c] - about[c]
        row[1 + c] += min(least * below, most * below)
        row[1 + t_length + c] += max(least * above, most * above)
