"""Lower bounds on the distances from a query to the keys of a leaf, computed from their sketches.

    ‖u − v‖² ≥ (‖a − c‖ − e)² + (‖u‖_rest − ‖v‖_rest)²

for the leading coordinates a of a query, the quantized ones c of a key, their largest error e in the leaf,
and the norms of the other coordinates, which differ by no more than the vectors do. A sketch has a fraction
of the size of its key, and reading the keys of a leaf takes longer than all sums over them. At low noise,
where the posterior is concentrated on one or a few keys, almost none of the others is read.
"""

import numpy as np

from lemmse.estimator.hybrid.leaf_sums import Scratch
from lemmse.estimator.hybrid.numbers import compiled
from lemmse.estimator.hybrid.records import Patches
from lemmse.estimator.hybrid.simd import LANES, add_squares, maximum
from lemmse.estimator.hybrid.sketch_arrays import Sketches

__all__ = ["may_be_nearer"]


@compiled
def may_be_nearer(
    distance: np.float32, leaf: int, patches: Patches, q: int, sketches: Sketches, scratch: Scratch
) -> bool:
    """Return whether a key of a leaf may be nearer to a query than a distance m > 0.

    For the leading coordinates, with l = ‖a − c‖, this uses  (l − e)² ≥ l² (1 − e/m) − e m + e², with
    equality at l = m.
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
