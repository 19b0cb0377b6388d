"""The scan of a cell: which of its leaves may have a key within a radius of a query, by their sketches.

    ‖u − v‖ ≥ ‖a − c‖ − e,     ‖u − v‖² ≥ ‖a′ − v‖² + ‖a − a′‖²

for the points a and c of the query and the key (see `lemmse.index.clustering.sketches`), the largest rounding
error e of both, and the point a′ of the box of the cell that is nearest to a. No key within the radius is
missed; nearly all others are ruled out without being read.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.byte_products import HALF, first_bit, near_boxes, near_half, nearer_half
from lemmse.estimator.hybrid.leaf_boxes import ZERO
from lemmse.estimator.hybrid.numbers import compiled, compiled_to_allocate
from lemmse.estimator.hybrid.records import Patches
from lemmse.estimator.hybrid.simd import LANES
from lemmse.estimator.hybrid.sketch_arrays import Sketches
from lemmse.estimator.hybrid.tree import Tree
from lemmse.index.clustering.sketches import ALL, MIDDLE, NEAR

__all__ = ["Scan", "allocate_scan", "cells_within", "scan_cell"]

_LARGEST = np.float32(127.0)
_MOST_SHIFT = 6
"""Largest shift: beyond 2^6 times the box of a cell, the point nearest to a query is compared instead."""
_BEYOND_ALL = np.float32(4e6)
"""Squared distance in steps that exceeds all in a box of bytes."""
_ROUNDING = np.float32(1e-6)
"""Relative error of a squared distance in float32."""
_BELOW_ALL = np.float32(2e9)
"""Magnitude of a limit that every sum of products exceeds."""
_UNREACHABLE = np.int32(2**31 - 1)


class Scan(NamedTuple):
    """Working memory of a scan: a query in the steps of a cell, and what it has found."""

    codes: NDArray[np.int8]
    """The point a′, rounded, at the first level and at the second, (NEAR + ALL,)."""
    words: NDArray[np.int32]
    """The same, 4 coordinates in a word, ((NEAR + ALL) / 4,)."""
    corner: NDArray[np.uint16]
    """The same of the first level, in steps of the cell, plus ZERO, (NEAR,)."""
    pairs: NDArray[np.int32]
    """The same, 2 coordinates in a word, (NEAR / 2,)."""
    squares: NDArray[np.float32]
    """Squared distances to the cell, (LANES,)."""


@compiled_to_allocate
def allocate_scan() -> Scan:
    """Return working memory."""
    codes = np.zeros(NEAR + ALL, np.int8)
    corner = np.zeros(NEAR, np.uint16)
    return Scan(codes, codes.view(np.int32), corner, corner.view(np.int32), np.zeros(LANES, np.float32))


@compiled
def cells_within(
    radius: np.float32, number: int, patches: Patches, q: int, sketches: Sketches, scan: Scan
) -> np.uint32:
    """Return a bit for each cell of a block: whether the extent of its keys is within a radius of a query."""
    squares, extent = scan.squares, sketches.extent
    for k in range(LANES):
        squares[k] = np.float32(0.0)
    for i in range(extent.shape[2]):
        x, low, high = patches.extent[q, i], extent[number, 0, i], extent[number, 1, i]
        for k in range(LANES):
            d = max(np.float32(0.0), max(low[k] - x, x - high[k]))
            squares[k] += d * d
    within = radius * radius
    found = np.uint32(0)
    for k in range(LANES):
        found |= np.uint32(squares[k] < within) << np.uint32(k)
    return found


@compiled
def _limit(
    patches: Patches, q: int, cell: int, end: int, skip: int, level: int, radius: np.float32, shift: int,
    sketches: Sketches, scan: Scan,
) -> tuple[np.int32, np.int32]:  # fmt: skip
    """Fill the codes of a query, in 2^shift steps, and return the limit of the sums of products of a level.

    Level 0 has the coordinates before NEAR, level 1 all except NEAR − 1: `end` and `skip`.
    """
    scale = np.float32(1 << shift)
    inverse = np.float32(1.0) / (sketches.step[cell] * scale)
    outside, error, square, total = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(end):
        x = (patches.points[q, i] - sketches.centre[cell, i]) * inverse
        inside = min(max(x, -_LARGEST), _LARGEST)
        c = np.floor(inside + np.float32(0.5))
        counts = np.float32(0.0) if i == skip else np.float32(1.0)
        outside += counts * (x - inside) * (x - inside)
        error += counts * (inside - c) * (inside - c)
        square += counts * c * c
        total += counts * c
        scan.codes[level * NEAR + i] = np.int8(counts * c)
    within = (radius + patches.rounding[q]) * inverse
    room = within * within - outside + _ROUNDING * (within * within + outside)
    if room <= np.float32(0.0):
        return _UNREACHABLE, np.int32(0)
    reach = scale * np.float32(math.sqrt(room) + math.sqrt(error))
    of_boxes = min(reach * reach * (np.float32(1.0) + _ROUNDING) + np.float32(1.0), _BELOW_ALL)
    reach += sketches.off[cell, level]
    reach = min(reach * reach, _BEYOND_ALL * scale * scale)
    if level == 0:
        for i in range(NEAR):
            scan.corner[i] = np.uint16((np.int32(scan.codes[i]) << np.int32(shift)) + np.int32(ZERO))
    limit = np.float32(0.5) * (scale * scale * square - reach) + np.float32(MIDDLE) * scale * total
    limit -= _ROUNDING * (reach + scale * scale * square) + np.float32(2.0)
    return np.int32(math.floor(max(limit, -_BELOW_ALL))), np.int32(of_boxes)


@compiled
def _shift(patches: Patches, q: int, cell: int, sketches: Sketches) -> int:
    """Return the least shift for which a query fits into a byte, in 2^shift steps of a cell."""
    largest = np.float32(0.0)
    for i in range(ALL):
        largest = max(largest, abs(patches.points[q, i] - sketches.centre[cell, i]))
    largest /= sketches.step[cell]
    shift = 0
    while shift < _MOST_SHIFT and largest > _LARGEST * np.float32(1 << shift):
        shift += 1
    return shift


@compiled
def scan_cell(
    radius: np.float32, cell: int, patches: Patches, q: int, tree: Tree, sketches: Sketches, scan: Scan,
    found: NDArray[np.uint32], row: int, column: int,
) -> bool:  # fmt: skip
    """Set a bit for each leaf of a cell that may have a key within a radius of a query; return if any has.

    found[row, column] has a word for each block of LANES leaves of the cell.
    """
    first_leaf = tree.cell_leaves[cell]
    first_block = tree.cell_blocks[cell]
    for i in range(tree.cell_blocks[cell + 1] - first_block):
        found[row, column, i] = np.uint32(0)
    shift = np.int32(_shift(patches, q, cell, sketches))
    limit, box_limit = _limit(patches, q, cell, NEAR, -1, 0, radius, shift, sketches, scan)
    if limit == _UNREACHABLE:
        return False
    next_limit = _UNREACHABLE
    ready = False
    place, more_place = sketches.cell_near[cell], sketches.cell_more[cell]
    first_key = tree.leaf_keys[first_leaf] - sketches.cell_lane[cell]
    any_found = False
    for i in range(tree.cell_blocks[cell + 1] - first_block):
        b = first_block + i
        bits = near_boxes(sketches.boxes, b, scan.pairs, 0, box_limit)
        size = tree.leaves.size[b]
        if size < LANES:
            bits &= (np.uint32(1) << np.uint32(size)) - np.uint32(1)
        while bits != np.uint32(0):
            k = first_bit(bits)
            bits &= bits - np.uint32(1)
            leaf = tree.leaves.first[b] + k
            key, end = tree.leaf_keys[leaf] - first_key, tree.leaf_keys[leaf + 1] - first_key
            half = key // HALF
            lanes = np.uint32(0xFFFF) << np.uint32(key % HALF)
            while half * HALF < end:
                own = end - half * HALF
                if own < HALF:
                    lanes &= (np.uint32(1) << np.uint32(own)) - np.uint32(1)
                offset = (half // 2) * (5 * LANES) + (half % 2) * HALF
                lanes &= near_half(sketches.near, place + offset, scan.words, 0, shift, limit)
                if lanes != np.uint32(0):
                    if not ready:
                        next_limit, _ = _limit(patches, q, cell, ALL, NEAR - 1, 1, radius, shift, sketches, scan)
                        ready = True
                        if next_limit == _UNREACHABLE:
                            return False
                    lanes &= nearer_half(
                        sketches.near, place + offset, sketches.more, more_place + offset,
                        scan.words, NEAR // 4, shift, next_limit,
                    )  # fmt: skip
                    if lanes != np.uint32(0):
                        found[row, column, i] |= np.uint32(1) << np.uint32(k)
                        any_found = True
                        break
                lanes = np.uint32(0xFFFF)
                half += 1
    return any_found
