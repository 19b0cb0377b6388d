"""How near to a query the keys of a leaf can be, by their sketches.

    ‖u − v‖² ≥ (‖a − c‖ − e)² + (‖u‖_rest − ‖v‖_rest)²

for the leading coordinates a of a query, c of a key as a byte has them, what these are off by at most, e, and
the norms of the other coordinates, which differ by no more than the vectors do. A sketch is a part of its
key, and reading the keys of a leaf takes longer than all sums over them. At low noise, where one or a few
keys hold the posterior, next to none of the others is read.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.leaf_sums import Scratch
from lemmse.estimator.hybrid.numbers import compiled
from lemmse.estimator.hybrid.records import Patches
from lemmse.estimator.hybrid.simd import LANES, add_squares, maximum
from lemmse.index.clustering.sketches import Sketch

__all__ = ["Sketches", "arrays_of", "may_be_nearer"]


class Sketches(NamedTuple):
    """Sketches of the keys of L leaves, R leading coordinates of each; of no leaf where there are none."""

    centre: NDArray[np.float32]
    """What the leading coordinates are counted from, (L, R)."""
    step: NDArray[np.float32]
    """In these steps, (L,)."""
    off: NDArray[np.float32]
    """What the leading coordinates of a key of the leaf are off by at most, a distance, (L,)."""
    steps: NDArray[np.int8]
    """Runs of LANES keys, R steps of each, flat."""
    rest: NDArray[np.float32]
    """Runs of the norms of the other coordinates of the same keys, flat."""
    leaf_steps: NDArray[np.int64]
    """Where the run of the first key of each leaf begins in `steps`."""
    leaf_rest: NDArray[np.int64]
    """Where it begins in `rest`."""
    leaf_lanes: NDArray[np.int64]
    """Which of its run the first key is, and where from there the leaf ends, (L, 2)."""


def arrays_of(sketch: Sketch | None, leaf_keys: NDArray[np.int64]) -> Sketches:
    """Sketches as the compiled loops take them."""
    if sketch is None:
        none, nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
        empty = np.zeros((0, 0), np.float32), nothing, nothing, np.zeros(0, np.int8), nothing
        return Sketches(*empty, none, none, np.zeros((0, 2), np.int64))
    leaf_steps, lane = sketch.steps.run_of(leaf_keys[:-1])
    return Sketches(
        centre=sketch.centre,
        step=sketch.step,
        off=sketch.off,
        steps=sketch.steps.values,
        rest=sketch.rest.values,
        leaf_steps=leaf_steps,
        leaf_rest=sketch.rest.run_of(leaf_keys[:-1])[0],
        leaf_lanes=np.stack([lane, lane + np.diff(leaf_keys)], axis=1),
    )


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
    steps, rests = sketches.leaf_steps[leaf], sketches.leaf_rest[leaf]
    lane, end = sketches.leaf_lanes[leaf]
    while end > 0:
        add_squares(x, 0, sketches.steps, steps, leading, sums, 0)
        for k in range(LANES):
            rest = patches.rest[q] - sketches.rest[rests + k]
            room = limit - slope * sums[k] - rest * rest
            sums[k] = room if lane <= k < end else np.float32(0.0)
        if maximum(sums, 0) > np.float32(0.0):
            return True
        steps, rests = steps + leading * LANES, rests + LANES
        lane, end = 0, end - LANES
    return False
