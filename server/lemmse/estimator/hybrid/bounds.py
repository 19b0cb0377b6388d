"""Bounds on the sums over unopened groups, without assumptions on their keys, for certified errors."""

import math

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.numbers import compiled
from lemmse.estimator.hybrid.records import GroupSums

__all__ = ["add_bounds", "log_most"]

_LARGEST = 600.0
"""Logarithm of the largest weight that is not treated as infinite."""
_ROUNDING = np.float32(1e-5)
"""Upper bound of the relative error of a squared distance between rotated float32 coordinates."""


@compiled
def log_most(
    extent: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    log_n: np.float32,
    precision: np.float32,
) -> np.float32:
    """Return the log of an upper bound of a group's Σ w: that for n keys at the least distance of its extent.

    The norms of the trailing coordinates of query and key differ by no more than the vectors do.
    """
    least, size = np.float32(0.0), np.float32(1.0)
    for i in range(extent.shape[0]):
        d = max(np.float32(0.0), max(low[i] - extent[i], extent[i] - high[i]))
        least += d * d
        size += extent[i] * extent[i]
    # Allow for the rounding of the coordinates in float32.
    least = max(np.float32(0.0), least - _ROUNDING * (least + size))
    return log_n - np.float32(0.5) * least * precision


@compiled
def add_bounds(
    sums: GroupSums,
    q: int,
    reference: NDArray[np.float64],
    log_most: np.float32,
    log_least: np.float32,
    target_low: NDArray[np.float32],
    target_high: NDArray[np.float32],
) -> None:
    """Add the bounds on Σ w, and on Σ w (t − h) for the reference mean h, of a group to those of query q.

    `log_most` and `log_least` are the logs of an upper and a lower bound of the group's Σ w.
    """
    t_length = reference.shape[1]
    if log_most > _LARGEST:  # the group may outweigh all other keys
        for c in range(t_length):
            sums.low[q, c] = -np.inf
            sums.high[q, c] = np.inf
        return
    least = math.exp(np.float64(log_least))
    most = max(least, math.exp(np.float64(log_most)))
    sums.least_w[q] += least
    for c in range(t_length):
        below, above = target_low[c] - reference[q, c], target_high[c] - reference[q, c]
        sums.low[q, c] += min(least * below, most * below)
        sums.high[q, c] += max(least * above, most * above)
