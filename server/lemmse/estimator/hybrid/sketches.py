"""Sketches of keys: leading coordinates in a byte each, from which follows how near a key can be.

    ‖u − v‖² ≥ (‖a − c‖ − e)² + (‖u‖_rest − ‖v‖_rest)²

for the leading coordinates a of a query, c of a key as a byte has them, what these are off by at most, e, and
the norms of the other coordinates, which differ by no more than the vectors do. A sketch is a tenth of its
key, and reading the keys of a leaf takes longer than all sums over them. At low noise, where one or a few
keys hold the posterior, next to none of the others is read.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lemmse.estimator.hybrid.leaves import Scratch
from lemmse.estimator.hybrid.numbers import compiled
from lemmse.estimator.hybrid.records import Patches
from lemmse.estimator.keys import Keys
from lemmse.estimator.lanes import LANES, add_squares, maximum
from lemmse.index import Basis

__all__ = ["SKETCHED", "Sketches", "may_be_nearer", "sketch", "sketched"]

SKETCHED = 24
"""Leading coordinates in a sketch."""
_FULL = np.float32(127)
_TINY = np.float32(1e-6)
"""Instead of the extent of a leaf of equal keys, to be divided by."""
_ABSENT = np.float32(1e15)
"""Norm of what is not there."""
_RUN = 1 << 17
"""Keys to sketch at once."""


class Sketches(NamedTuple):
    """Sketches of the keys of L leaves, R leading coordinates of each, in runs of LANES keys."""

    first: NDArray[np.int64]
    """First run of each leaf, and the number of runs N, (L + 1,)."""
    centre: NDArray[np.float32]
    """What the leading coordinates are counted from, (L, R)."""
    step: NDArray[np.float32]
    """In these steps, (L,)."""
    off: NDArray[np.float32]
    """What the leading coordinates of a key of the leaf are off by at most, a distance, (L,)."""
    steps: NDArray[np.int8]
    """(N, R, LANES)."""
    rest: NDArray[np.float32]
    """Norm of the other coordinates, (N, LANES)."""


def sketched(p_length: int) -> int:
    """Leading coordinates in the sketch of a key of length P, an even number."""
    return min(SKETCHED, p_length - p_length % 2)


def sketch(keys: Keys, basis: Basis, leaf_keys: NDArray[np.int64]) -> Sketches:
    """Sketch all keys, leaf by leaf."""
    leaves, leading = len(leaf_keys) - 1, sketched(keys.p_length)
    first = np.cumsum([0, *-(-np.diff(leaf_keys) // LANES)])
    sketches = Sketches(
        first=first,
        centre=np.empty((leaves, leading), np.float32),
        step=np.empty(leaves, np.float32),
        off=np.empty(leaves, np.float32),
        steps=np.zeros((first[-1], leading, LANES), np.int8),
        rest=np.full((first[-1], LANES), _ABSENT),
    )
    axes = torch.from_numpy(basis.axes.T.copy())
    leaf = 0
    while leaf < leaves:
        stop = max(leaf + 1, int(np.searchsorted(leaf_keys, leaf_keys[leaf] + _RUN, side="right")) - 1)
        v = keys.coordinates(int(leaf_keys[leaf]), int(leaf_keys[stop]))
        v = axes @ (v - torch.from_numpy(basis.mean)[:, None])
        rest = torch.linalg.vector_norm(v[leading:], dim=0)
        _sketch(v[:leading].numpy(), rest.numpy(), leaf_keys, leaf, stop, sketches)
        leaf = stop
    return sketches


@compiled
def _sketch(
    v: NDArray[np.float32],
    rest: NDArray[np.float32],
    leaf_keys: NDArray[np.int64],
    leaf: int,
    stop: int,
    sketches: Sketches,
) -> None:
    """Sketch the keys of leaves leaf … stop − 1, whose leading coordinates are the columns of v."""
    base = leaf_keys[leaf]
    for number in range(leaf, stop):
        begin, end, first = leaf_keys[number] - base, leaf_keys[number + 1] - base, sketches.first[number]
        centre = sketches.centre[number]
        largest = _TINY
        for i in range(len(v)):
            low, high = v[i, begin], v[i, begin]
            for k in range(begin, end):
                low, high = min(low, v[i, k]), max(high, v[i, k])
            centre[i] = np.float32(0.5) * (low + high)
            largest = max(largest, np.float32(0.5) * (high - low))
        step = largest / _FULL
        sketches.step[number] = step
        off = np.float32(0.0)
        for k in range(begin, end):
            run, lane = first + (k - begin) // LANES, (k - begin) % LANES
            sketches.rest[run, lane] = rest[k]
            square = np.float32(0.0)
            for i in range(len(v)):
                x = (v[i, k] - centre[i]) / step
                steps = np.float32(np.rint(x))
                sketches.steps[run, i, lane] = np.int8(steps)
                square += (x - steps) ** 2
            off = max(off, square)
        sketches.off[number] = step * np.float32(math.sqrt(off))


@compiled
def may_be_nearer(
    distance: np.float32, leaf: int, patches: Patches, q: int, sketches: Sketches, scratch: Scratch
) -> bool:
    """Whether a key of a leaf may be nearer to a query than a distance m > 0.

    For the leading coordinates, l = ‖a − c‖, this takes  (l − e)² ≥ l² (1 − e/m) − e m + e², equal at l = m.
    """
    x, sums, leading = scratch.x, scratch.sums, sketches.centre.shape[1]
    step, off = sketches.step[leaf], sketches.off[leaf]
    inverse = np.float32(1.0) / step
    for i in range(leading):
        x[i] = (patches.u[q, i] - sketches.centre[leaf, i]) * inverse
    slope = step * step * (np.float32(1.0) - off / distance)
    if slope <= np.float32(0.0):
        return True
    limit = distance * distance + off * distance - off * off
    for run in range(sketches.first[leaf], sketches.first[leaf + 1]):
        add_squares(x, 0, sketches.steps, run * leading * LANES, leading, sums, 0)
        for k in range(LANES):
            rest = patches.rest[q] - sketches.rest[run, k]
            sums[k] = limit - slope * sums[k] - rest * rest
        if maximum(sums, 0) > np.float32(0.0):
            return True
    return False
