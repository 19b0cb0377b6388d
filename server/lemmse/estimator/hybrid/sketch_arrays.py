"""Sketches of keys in the form that the compiled loops need."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.leaf_boxes import leaf_boxes
from lemmse.estimator.hybrid.tree import Tree
from lemmse.index.clustering.groups import interleaved
from lemmse.index.clustering.sketches import Sketch

__all__ = ["Sketches", "sketch_arrays"]


class Sketches(NamedTuple):
    """Sketches of the keys of G cells; see `lemmse.index.clustering.sketches`."""

    centre: NDArray[np.float32]
    """Centre of the box of the points of each cell, (G, ALL)."""
    step: NDArray[np.float32]
    """Quantization step of each cell, (G,)."""
    off: NDArray[np.float32]
    """Largest rounding error in each cell, in steps, at the first level and at the second, (G, 2)."""
    near: NDArray[np.int32]
    """−½ ‖c‖² and coordinates of the first level: runs of LANES keys, 5 numbers of each, flat."""
    more: NDArray[np.int32]
    """The same of the second level, flat."""
    cell_near: NDArray[np.int64]
    """Start in `near` of the run of each cell's first key, (G,)."""
    cell_more: NDArray[np.int64]
    """The same in `more`, (G,)."""
    cell_lane: NDArray[np.int64]
    """Place of each cell's first key in its run, (G,)."""
    boxes: NDArray[np.int32]
    """Boxes of the points of the keys of leaves; see `leaf_boxes`, (B, PAIRS, 2, LANES)."""
    extent: NDArray[np.float32]
    """Smallest and largest value of each coordinate of the extents of cells, (B, 2, E, LANES)."""


def sketch_arrays(sketch: Sketch, tree: Tree) -> Sketches:
    """Return the sketches of the keys of a tree."""
    first_keys = tree.leaf_keys[tree.cell_leaves[:-1]]
    near, lane = sketch.near.run_of(first_keys)
    more, _ = sketch.more.run_of(first_keys)
    cells = tree.cells
    return Sketches(
        centre=sketch.centre,
        step=np.ascontiguousarray(sketch.step[:, 0]),
        off=sketch.off,
        near=sketch.near.values,
        more=sketch.more.values,
        cell_near=near,
        cell_more=more,
        cell_lane=lane,
        boxes=leaf_boxes(sketch, tree),
        extent=np.ascontiguousarray(
            np.stack(
                [interleaved(bound, cells.first, cells.size) for bound in (cells.low, cells.high)], axis=1
            )
        ),
    )
