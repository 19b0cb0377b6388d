"""The scan of a cell: which of its leaves may have a key within a radius of a query, by their sketches.

    ‖u − v‖ ≥ ‖a − c‖ − e,     ‖u − v‖² ≥ ‖a′ − v‖² + ‖a − a′‖²

for the points a and c of the query and the key (see `lemmse.index.clustering.sketches`), the largest rounding
error e of both, and the point a′ of the box of the cell that is nearest to a. With the nearest point of the
box of a leaf in place of c, the same bound rules out leaves before their keys are compared. No key within the
radius is missed; nearly all others are ruled out without being read.

A leaf is compared with all queries that are near its box before the next leaf is: its keys stay in the cache.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.byte_products import (
    HALF,
    LIMIT,
    NEXT_LIMIT,
    ROW,
    SHIFT,
    near_boxes,
    near_keys,
    nearer_keys,
)
from lemmse.estimator.hybrid.leaf_boxes import ZERO
from lemmse.estimator.hybrid.numbers import aligned, compiled, compiled_to_allocate
from lemmse.estimator.hybrid.records import Patches
from lemmse.estimator.hybrid.simd import LANES, largest_difference
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
_UNKNOWN = np.int32(-(2**31))
"""A limit that was not computed yet."""


class Scan(NamedTuple):
    """Working memory of a scan of a cell for up to J queries: each in the steps of the cell."""

    codes: NDArray[np.int8]
    """The points a′, rounded, at the first level and at the second, (J, 4 ROW)."""
    rows: NDArray[np.int32]
    """The same, 4 coordinates in a word, and the shift and the limits of both levels, (J, ROW)."""
    corner: NDArray[np.uint16]
    """The point of the first level, in steps of the cell, plus ZERO, (NEAR,)."""
    pairs: NDArray[np.int32]
    """The same, 2 coordinates in a word, (NEAR / 2,)."""
    boxes: NDArray[np.uint32]
    """A bit for each leaf: whether its box is within the radius; a word for each block of leaves, (J, W)."""
    queries: NDArray[np.int64]
    """Positions of the queries in their list, (J,)."""
    some: NDArray[np.int64]
    """Rows of the queries that are near the box of a leaf, (J,)."""
    hits: NDArray[np.int64]
    """Rows of those that are near a key of half a run, (J,)."""
    lanes: NDArray[np.uint32]
    """A bit for each of these keys: whether it is near, (J,)."""
    squares: NDArray[np.float32]
    """Squared distances to the cell, (LANES,)."""


@compiled_to_allocate
def allocate_scan(count: int, blocks: int) -> Scan:
    """Return working memory for a number of queries, and of blocks of leaves in a cell."""
    rows, corner = aligned(count * ROW).view(np.int32).reshape(count, ROW), np.zeros(NEAR, np.uint16)
    return Scan(
        rows.view(np.int8), rows, corner, corner.view(np.int32), np.zeros((count, blocks), np.uint32),
        np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64),
        np.zeros(count, np.uint32), aligned(LANES),
    )  # fmt: skip


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
    patches: Patches, q: int, cell: int, end: int, skip: int, level: int, radius: np.float32,
    shift: np.int32, sketches: Sketches, scan: Scan, row: int,
) -> tuple[np.int32, np.int32]:  # fmt: skip
    """Fill the codes of a query, in 2^shift steps, and return two limits.

    A key is farther away than the radius if its sum of products of a level is at most the first limit, and so
    are the keys in a box if its squared distance from the point of the codes, in steps, is above the second.
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
        scan.codes[row, level * NEAR + i] = np.int8(counts * c)
    within = (radius + patches.rounding[q]) * inverse
    room = within * within - outside + _ROUNDING * (within * within + outside)
    if room <= np.float32(0.0):
        return _UNREACHABLE, np.int32(0)
    reach = scale * np.float32(math.sqrt(room) + math.sqrt(error))
    of_boxes = min(reach * reach * (np.float32(1.0) + _ROUNDING) + np.float32(1.0), _BELOW_ALL)
    reach += sketches.off[cell, level]
    reach = min(reach * reach, _BEYOND_ALL * scale * scale)
    limit = np.float32(0.5) * (scale * scale * square - reach) + np.float32(MIDDLE) * scale * total
    limit -= _ROUNDING * (reach + scale * scale * square) + np.float32(2.0)
    return np.int32(np.floor(max(limit, -_BELOW_ALL))), np.int32(of_boxes)


@compiled
def _shift(patches: Patches, q: int, cell: int, sketches: Sketches) -> np.int32:
    """Return the least shift for which a query fits into a byte, in 2^shift steps of a cell."""
    largest = largest_difference(patches.points, q * ALL, sketches.centre, cell * ALL) / sketches.step[cell]
    shift = np.int32(0)
    while shift < _MOST_SHIFT and largest > _LARGEST * np.float32(1 << shift):
        shift += np.int32(1)
    return shift


@compiled
def _begin(
    radius: np.float32, cell: int, patches: Patches, q: int, tree: Tree, sketches: Sketches, scan: Scan,
    row: int,
) -> bool:  # fmt: skip
    """Fill a row of the working memory for a query; return whether any box of a leaf is within the radius."""
    shift = _shift(patches, q, cell, sketches)
    limit, box_limit = _limit(patches, q, cell, NEAR, -1, 0, radius, shift, sketches, scan, row)
    if limit == _UNREACHABLE:
        return False
    for i in range(NEAR):
        scan.corner[i] = np.uint16((np.int32(scan.codes[row, i]) << shift) + np.int32(ZERO))
    any_near = np.uint32(0)
    first_block = tree.cell_blocks[cell]
    for b in range(tree.cell_blocks[cell + 1] - first_block):
        bits = near_boxes(sketches.boxes, first_block + b, scan.pairs, 0, box_limit)
        scan.boxes[row, b] = bits
        any_near |= bits
    scan.rows[row, SHIFT], scan.rows[row, LIMIT], scan.rows[row, NEXT_LIMIT] = shift, limit, _UNKNOWN
    return bool(any_near != np.uint32(0))


@compiled
def _bits_from(first: int) -> np.uint32:
    """Return a word with the bits from `first` on."""
    return np.uint32(np.int64(-1) << np.int64(first))


@compiled
def scan_cell(
    radius: NDArray[np.float32], cell: int, patches: Patches, queries: NDArray[np.int32],
    chosen: NDArray[np.uint32], bit: np.uint32, tree: Tree, sketches: Sketches, scan: Scan,
    found: NDArray[np.uint32], cells: NDArray[np.uint32],
) -> None:  # fmt: skip
    """Find the leaves of a cell that may have a key within the radius radius[j] of query j.

    Only for queries with a given bit in chosen[j]: found[j] gets a bit for each such leaf, in a word for each
    block of leaves, and if there is any, cells[j] gets the given bit.
    """
    count = 0
    first_block = tree.cell_blocks[cell]
    blocks = tree.cell_blocks[cell + 1] - first_block
    for j in range(len(queries)):
        if chosen[j] & bit:
            for b in range(blocks):
                found[j, b] = np.uint32(0)
            if _begin(radius[j], cell, patches, queries[j], tree, sketches, scan, count):
                scan.queries[count] = j
                count += 1
    near, more = sketches.cell_near[cell], sketches.cell_more[cell]
    first_key = tree.leaf_keys[tree.cell_leaves[cell]] - sketches.cell_lane[cell]
    for b in range(blocks):
        for k in range(tree.leaves.size[first_block + b]):
            some = 0
            for i in range(count):
                scan.some[some] = i
                some += int((scan.boxes[i, b] >> np.uint32(k)) & np.uint32(1))
            if some == 0:
                continue
            leaf = tree.leaves.first[first_block + b] + k
            key, end = tree.leaf_keys[leaf] - first_key, tree.leaf_keys[leaf + 1] - first_key
            for half in range(key // HALF, (end + HALF - 1) // HALF):
                own = _bits_from(max(key - half * HALF, 0)) & ~_bits_from(min(end - half * HALF, HALF))
                place = half // 2 * (5 * LANES) + half % 2 * HALF
                hits = near_keys(
                    sketches.near, near + place, scan.rows, scan.some, some, own, scan.hits, scan.lanes
                )
                if hits == 0:
                    continue
                for hit in range(hits):
                    row = scan.hits[hit]
                    if scan.rows[row, NEXT_LIMIT] == _UNKNOWN:
                        j = scan.queries[row]
                        scan.rows[row, NEXT_LIMIT], _ = _limit(
                            patches, queries[j], cell, ALL, NEAR - 1, 1, radius[j], scan.rows[row, SHIFT],
                            sketches, scan, row,
                        )  # fmt: skip
                hits = nearer_keys(
                    sketches.near, near + place, sketches.more, more + place, scan.rows, scan.hits, hits,
                    scan.lanes,
                )  # fmt: skip
                for hit in range(hits):
                    j = scan.queries[scan.hits[hit]]
                    found[j, b] |= np.uint32(1) << np.uint32(k)
                    cells[j] |= bit
