"""Sketches of keys in the form that the compiled loops need."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.index.clustering.sketches import Sketch

__all__ = ["Sketches", "sketch_arrays"]


class Sketches(NamedTuple):
    """Sketches of the keys of L leaves, with R leading coordinates each; L = 0 if keys have no sketches."""

    centre: NDArray[np.float32]
    """Origin of the leading coordinates of each leaf, (L, R)."""
    step: NDArray[np.float32]
    """Quantization step of each leaf, (L,)."""
    off: NDArray[np.float32]
    """Largest distance in each leaf between the leading coordinates of a key and the quantized ones, (L,)."""
    steps: NDArray[np.int8]
    """Quantized coordinates: runs of LANES keys, R numbers of each, flat."""
    rest: NDArray[np.float32]
    """Norms of the other coordinates: runs of LANES keys, flat."""
    leaf_steps: NDArray[np.int64]
    """Start in `steps` of the run of each leaf's first key, (L,)."""
    leaf_rest: NDArray[np.int64]
    """Start in `rest` of the run of each leaf's first key, (L,)."""
    leaf_lanes: NDArray[np.int64]
    """Positions of the first key of each leaf and of its end, counted from the start of its run, (L, 2)."""


def sketch_arrays(sketch: Sketch | None, leaf_keys: NDArray[np.int64]) -> Sketches:
    """Return the sketches of an index, for leaves whose first keys are given, (L + 1,)."""
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
