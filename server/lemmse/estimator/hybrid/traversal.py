"""The traversal of the tree: cells are opened into leaves and leaves into keys where their errors matter."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.bounds import add_bounds, log_most
from lemmse.estimator.hybrid.group_sums import (
    CLOSED,
    ERROR,
    JENSEN,
    LOG_ERROR,
    LOG_MASS,
    LOG_N,
    MASS,
    NEAREST,
    OFFSET,
    S_MAX,
    Block,
    S,
    add_groups,
    allocate_block,
    fill_masses,
    load,
    load_targets,
    score,
)
from lemmse.estimator.hybrid.leaf_sums import Scratch, add_keys, allocate_scratch
from lemmse.estimator.hybrid.numbers import ABSENT, compiled, compiled_to_allocate, rounded_down
from lemmse.estimator.hybrid.records import OutputFlags, SumJob
from lemmse.estimator.hybrid.scan import Scan, allocate_scan, cells_within, scan_cell
from lemmse.estimator.hybrid.sharp_sums import add_sharp_keys, begin_at_nearest
from lemmse.estimator.hybrid.simd import LANES, maximum
from lemmse.index.clustering.groups import Groups

__all__ = ["LARGEST_THRESHOLD", "traverse"]

LARGEST_THRESHOLD = np.float32(80.0)
"""Largest threshold without bounds; above it, no further group would stay unopened."""

_LOG_NEGLIGIBLE = np.float32(-16.0)
"""Unopened groups with less than e^−16 of the weight are omitted."""
_ERROR_RANGE = np.float32(7.0)
"""Errors less than e^−7 of the tolerated one are omitted from the estimated error."""
_SHARP_MARGIN = np.float32(0.1)
"""Of two keys, one is farther from a sharp query if it has less weight by a factor of e^0.1, more than
float32 rounds off."""
_KEY_MARGIN = np.float32(1.0)
"""A leaf is opened if one of its keys may have e^−1 of the tolerated error."""
_SCAN_MARGIN = np.float32(4.0)
"""A cell is not scanned if its error is expected to be less than e^−4 of the tolerated error."""
_NO_MASS = np.float32(20.0)
"""Groups with few decisive keys, none of which a scan has found, have e^−20 of the estimate or less."""


class _Found(NamedTuple):
    """What the scans of a block of LANES cells have found for J queries."""

    radius: NDArray[np.float32]
    """The distance within which a key may count, (J,)."""
    chosen: NDArray[np.uint32]
    """A bit for each cell: whether to scan it, (J,)."""
    cells: NDArray[np.uint32]
    """A bit for each cell: whether a key within the radius may be in it, (J,)."""
    leaves: NDArray[np.uint32]
    """A bit for each leaf of these cells; a word for each block of leaves, (LANES, J, W)."""


class _Opened(NamedTuple):
    """The queries that open each of LANES groups."""

    queries: NDArray[np.int32]
    """Positions of the queries in a list, (LANES, J)."""
    length: NDArray[np.int64]
    """Number of valid entries in each row of `queries`, (LANES,)."""


@compiled_to_allocate
def traverse(queries: NDArray[np.int32], job: SumJob) -> None:
    """Add the keys and groups of the job's stratum to the results of the queries with the given numbers.

    If bounds are requested, groups are opened by an upper bound of their weight, and unopened groups are
    bounded.
    """
    tree, log_z, count = job.tree, job.results.log_z, len(queries)
    block, scratch = allocate_block(tree.cells), allocate_scratch(job.keys)
    widest = np.max(tree.cell_blocks[1:] - tree.cell_blocks[:-1])
    scan = allocate_scan(count, widest)
    found = _Found(
        np.zeros(count, np.float32),
        np.zeros(count, np.uint32),
        np.zeros(count, np.uint32),
        np.zeros((LANES, count, widest), np.uint32),
    )
    opened_cells = _Opened(np.empty((LANES, count), np.int32), np.empty(LANES, np.int64))
    opened_leaves = _Opened(np.empty((LANES, count), np.int32), np.empty(LANES, np.int64))
    some, near = np.empty(count, np.int32), np.empty(count, np.uint32)
    if len(job.sharp.scaled) > 0:
        begin_at_nearest(queries, job, scratch)
    for q in queries:  # scores are float32, in which small parts of Σ w vanish
        log_z[q] = rounded_down(log_z[q])
    for number in range(tree.strata_blocks[job.stratum], tree.strata_blocks[job.stratum + 1]):
        if job.scans:
            _scan(number, queries, job, block, scan, found)
        _visit(tree.cells, number, queries, found.cells, job.normalizer.cell, job, block, opened_cells)
        for k in range(tree.cells.size[number]):
            length = opened_cells.length[k]
            if length == 0:
                continue
            for i in range(length):
                some[i] = queries[opened_cells.queries[k, i]]
            bit = np.uint32(1) << np.uint32(k)
            cell = tree.cells.first[number] + k
            for b in range(tree.cell_blocks[cell + 1] - tree.cell_blocks[cell]):
                for i in range(length):
                    j = opened_cells.queries[k, i]
                    near[i] = found.leaves[k, j, b] if found.cells[j] & bit else np.uint32(0)
                leaf_number = tree.cell_blocks[cell] + b
                _visit(
                    tree.leaves, leaf_number, some[:length], near, job.normalizer.leaf, job, block,
                    opened_leaves,
                )  # fmt: skip
                for lane in range(tree.leaves.size[leaf_number]):
                    for i in range(opened_leaves.length[lane]):
                        opened_leaves.queries[lane, i] = some[opened_leaves.queries[lane, i]]
                _add_leaves(leaf_number, job, scratch, opened_leaves)


@compiled
def _scan(
    number: int, queries: NDArray[np.int32], job: SumJob, block: Block, scan: Scan, found: _Found
) -> None:
    """Scan the cells of a block for the queries that have a key in them which may count."""
    patches, sketches, tree, scores = job.patches, job.sketches, job.tree, block.scores
    load(block, tree.cells, number, patches.precision)
    for j in range(len(queries)):
        q = queries[j]
        radius = found.radius[j] = _radius(q, job)
        found.cells[j] = found.chosen[j] = np.uint32(0)
        if radius > np.float32(0.0):
            within = cells_within(radius, number, patches, q, sketches, scan)
            if within != np.uint32(0):
                least = job.threshold[q] - _SCAN_MARGIN
                score(patches, q, np.float32(job.results.log_z[q]), tree.cells, number, block)
                likely = np.uint32(0)
                for k in range(LANES):
                    likely |= np.uint32(scores[NEAREST, k] > least) << np.uint32(k)
                found.chosen[j] = within & likely
    for k in range(tree.cells.size[number]):
        bit, cell = np.uint32(1) << np.uint32(k), tree.cells.first[number] + k
        scan_cell(
            found.radius, cell, patches, queries, found.chosen, bit, tree, sketches, scan,
            found.leaves[k], found.cells,
        )  # fmt: skip


@compiled
def _radius(q: int, job: SumJob) -> np.float32:
    """Return the distance within which a key may count for a query; 0 if none can."""
    tolerated = job.threshold[q] - _KEY_MARGIN
    log_w = tolerated + np.float32(job.results.log_z[q])
    return np.float32(math.sqrt(max(np.float32(0.0), np.float32(-2.0) * log_w / job.patches.precision)))


@compiled
def _add_leaves(number: int, job: SumJob, scratch: Scratch, opened: _Opened) -> None:
    """Add the keys of a block of leaves to the sums of the queries that opened these leaves."""
    leaves = job.tree.leaves
    for k in range(leaves.size[number]):
        leaf, count = leaves.first[number] + k, opened.length[k]
        if count > 0 and len(job.sharp.scaled) > 0:
            add_sharp_keys(leaf, opened.queries[k, :count], job, scratch)
        elif count > 0:
            add_keys(leaf, opened.queries[k, :count], job, scratch)


@compiled
def _visit(
    groups: Groups,
    number: int,
    queries: NDArray[np.int32],
    near: NDArray[np.uint32],
    nearest: NDArray[np.int64],
    job: SumJob,
    block: Block,
    opened: _Opened,
) -> None:
    """List the queries that open each group of a block, and add unopened groups to the sums of the others.

    Group `nearest[q]` is always opened for query q. `near` has a bit for each group: whether a scan has found
    a key in it that may count. After scans, no key of another group is assumed to count by itself.
    """
    opened.length[:] = 0
    patches, outputs, sums, scores = job.patches, job.outputs, job.results.groups, block.scores
    sharp = len(job.sharp.scaled) > 0
    first, end = groups.first[number], groups.first[number] + groups.size[number]
    load(block, groups, number, patches.precision)
    targets_loaded = False
    for j in range(len(queries)):
        q = queries[j]
        z, threshold = np.float32(job.results.log_z[q]), job.threshold[q]
        score(patches, q, z, groups, number, block)
        if job.scans:
            for k in range(LANES):
                if scores[S, k] > block.constants[S_MAX, k]:
                    rare = min(np.float32(0.0), scores[LOG_ERROR, k] + OFFSET)
                    most = threshold - _KEY_MARGIN + rare
                    scores[LOG_MASS, k] = min(scores[LOG_MASS, k], most + rare - _NO_MASS)
                    scores[LOG_ERROR, k] = min(scores[LOG_ERROR, k], most)
        opening = maximum(scores, LOG_ERROR * LANES) > threshold
        opening = opening or first <= nearest[q] < end or outputs.bounds or near[j] != np.uint32(0)
        if not opening and not _counts(scores, threshold, outputs):
            continue
        fill_masses(block)
        if opening:
            limit = np.float32(math.exp(min(threshold, LARGEST_THRESHOLD)))
            for k in range(end - first):
                opens = scores[ERROR, k] > limit or first + k == nearest[q]
                opens = opens or (sharp and scores[MASS, k] > limit)  # keys much alike differ at less noise
                opens = opens or (near[j] >> np.uint32(k)) & np.uint32(1) != np.uint32(0)
                if outputs.bounds:
                    group = first + k
                    low, high, log_n = groups.low[group], groups.high[group], block.constants[LOG_N, k]
                    most = log_most(patches.extent[q], low, high, log_n, patches.precision) - z
                    opens = opens or most > threshold
                    if not opens:
                        least = scores[JENSEN, k] - job.rounding[q]
                        most += job.rounding[q]
                        if sharp:  # at less noise a group has less weight, or more if it has a nearer key
                            least = ABSENT
                            most = np.float32(np.inf) if most > log_n - _SHARP_MARGIN else most
                        low, high = groups.target_low[group], groups.target_high[group]
                        add_bounds(sums, q, job.reference, most, least, low, high)
                if opens:
                    scores[CLOSED, k] = np.float32(0.0)
                    scores[LOG_MASS, k] = scores[LOG_ERROR, k] = ABSENT
                    opened.queries[k, opened.length[k]] = j
                    opened.length[k] += 1
        if _counts(scores, threshold, outputs):
            if not targets_loaded and patches.weights.shape[1] == 0:
                load_targets(block, groups, number)
                targets_loaded = True
            add_groups(sums, q, patches, groups, number, block, outputs)


@compiled
def _counts(scores: NDArray[np.float32], threshold: np.float32, outputs: OutputFlags) -> bool:
    """Return whether an unopened group of a block has a weight, or an error, that is not negligible."""
    return maximum(scores, LOG_MASS * LANES) > _LOG_NEGLIGIBLE or (
        outputs.error and maximum(scores, LOG_ERROR * LANES) > threshold - _ERROR_RANGE
    )
