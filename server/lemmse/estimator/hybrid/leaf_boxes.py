"""Boxes of leaves: around the points of their sketches, in the steps of their cell.

A scan compares a query with the keys of those leaves whose box is within the radius.
"""

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.tree import Tree
from lemmse.index.clustering.groups import interleaved
from lemmse.index.clustering.sketches import NEAR, Sketch
from lemmse.index.storage.packing import LANES, aligned

__all__ = ["ZERO", "leaf_boxes"]

ZERO = 1 << 14
"""The stored number that stands for the centre of the box of a cell."""
_LARGEST = np.float32(1 << 13)
"""Largest distance from the centre, in steps: more than that of any point that is compared."""
_BLOCKS = 4096
"""Number of blocks processed at once."""


def leaf_boxes(sketch: Sketch, tree: Tree) -> NDArray[np.int32]:
    """Return the boxes of the leaves of a tree, at the first level of the sketches.

    They follow from the extents of the leaves, and contain the points of all keys.

    Returns
    -------
    int32, (B, NEAR / 2, 2, LANES)
        Lower and upper corner of the leaves of each block, two coordinates in a word, as unsigned numbers of
        16 bits: steps from the centre of the box of the cell, plus ZERO.
    """
    leaves = tree.leaves
    cell = np.repeat(np.arange(len(sketch.step)), np.diff(tree.cell_leaves))
    boxes = aligned((len(leaves.first), NEAR // 2, 2, LANES)).view(np.int32)
    for start in range(0, len(leaves.first), _BLOCKS):
        first, size = leaves.first[start : start + _BLOCKS], leaves.size[start : start + _BLOCKS]
        some = slice(first[0], first[-1] + size[-1])
        centre, step = sketch.centre[cell[some], :NEAR], sketch.step[cell[some]]
        corners = [
            np.clip(rounded((corner - centre) / step), -_LARGEST, _LARGEST)
            for corner, rounded in zip(
                _corners(leaves.low[some], leaves.high[some]), (np.floor, np.ceil), strict=True
            )
        ]
        words = np.stack(corners, axis=1).astype(np.int16) + np.int16(ZERO)  # (G, 2, NEAR)
        of_blocks = interleaved(words.view(np.int32), first - first[0], size)  # (B, 2, NEAR / 2, LANES)
        boxes[start : start + _BLOCKS] = of_blocks.swapaxes(1, 2)
    return boxes


def _corners(
    low: NDArray[np.float32], high: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the corners of boxes around the points of sketches, given the extents of groups.

    An extent has LEADING coordinates, or all if there are fewer, and the norm of the others. The first
    NEAR − 1 are coordinates of a point, and further ones are part of its norm.
    """
    corners = np.zeros((2, len(low), NEAR), np.float32)
    leading = min(NEAR - 1, low.shape[1] - 1)
    corners[0, :, :leading], corners[1, :, :leading] = low[:, :leading], high[:, :leading]
    further = slice(leading, low.shape[1])
    least = np.maximum(0, np.maximum(low[:, further], -high[:, further]))
    most = np.maximum(-low[:, further], high[:, further])
    corners[0, :, -1], corners[1, :, -1] = np.linalg.norm(least, axis=1), np.linalg.norm(most, axis=1)
    return corners[0], corners[1]
