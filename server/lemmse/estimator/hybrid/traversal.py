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
    Block,
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
from lemmse.estimator.hybrid.sharp_sums import add_sharp_keys, begin_at_nearest
from lemmse.estimator.hybrid.simd import LANES, maximum
from lemmse.estimator.hybrid.sketch_bounds import may_be_nearer
from lemmse.index.clustering.groups import Groups

__all__ = ["LARGEST_THRESHOLD", "traverse"]

LARGEST_THRESHOLD = np.float32(80.0)
"""Largest threshold without bounds; above it, no further group would stay unopened."""

_LOG_NEGLIGIBLE = np.float32(-16.0)
"""Unopened groups with less than e^−16 of the weight are omitted."""
_SHARP_MARGIN = np.float32(0.1)
"""Of two keys, one is farther from a sharp query if it has less weight by a factor of e^0.1, more than
float32 rounds off."""
_SKETCH_MARGIN = np.float32(3.0)
"""The keys of an opened leaf are not read if they have less than e^−3 of the tolerated error."""


class _Opened(NamedTuple):
    """The queries that open each of LANES groups."""

    queries: NDArray[np.int32]
    """Numbers of the queries, (LANES, J)."""
    length: NDArray[np.int64]
    """Number of valid entries in each row of `queries`, (LANES,)."""


@compiled_to_allocate
def traverse(queries: NDArray[np.int32], job: SumJob) -> None:
    """Add the keys and groups of the job's stratum to the results of the queries with the given numbers.

    If bounds are requested, groups are opened by an upper bound of their weight, and unopened groups are
    bounded.
    """
    block = allocate_block(job.tree.cells)
    scratch = allocate_scratch(job.keys, job.patches.steps.shape[1])
    opened_cells = _Opened(np.empty((LANES, len(queries)), np.int32), np.empty(LANES, np.int64))
    opened_leaves = _Opened(np.empty((LANES, len(queries)), np.int32), np.empty(LANES, np.int64))
    tree, log_z = job.tree, job.results.log_z
    if len(job.sharp.scaled) > 0:
        begin_at_nearest(queries, job, scratch)
    for q in queries:  # scores are float32, in which small parts of Σ w vanish
        log_z[q] = rounded_down(log_z[q])
    for number in range(tree.strata_blocks[job.stratum], tree.strata_blocks[job.stratum + 1]):
        _visit(tree.cells, number, queries, job.normalizer.cell, job, block, opened_cells)
        for k in range(tree.cells.size[number]):
            if opened_cells.length[k] == 0:
                continue
            some = opened_cells.queries[k, : opened_cells.length[k]]
            cell = tree.cells.first[number] + k
            for leaf_number in range(tree.cell_blocks[cell], tree.cell_blocks[cell + 1]):
                _visit(tree.leaves, leaf_number, some, job.normalizer.leaf, job, block, opened_leaves)
                _add_leaves(leaf_number, job, scratch, opened_leaves)


@compiled
def _add_leaves(number: int, job: SumJob, scratch: Scratch, opened: _Opened) -> None:
    """Add the keys of a block of leaves to the sums of the queries that opened these leaves."""
    leaves = job.tree.leaves
    has_sketches = len(job.sketches.step) > 0 and not job.outputs.bounds and job.patches.weights.shape[1] == 0
    for k in range(leaves.size[number]):
        leaf, count = leaves.first[number] + k, opened.length[k]
        if count > 0 and has_sketches:
            count = _keep_near(leaf, opened.queries[k, :count], leaves.n[number, k], job, scratch)
        if count > 0:
            if len(job.sharp.scaled) > 0:
                add_sharp_keys(leaf, opened.queries[k, :count], job, scratch)
            else:
                add_keys(leaf, opened.queries[k, :count], job, scratch)


@compiled
def _keep_near(leaf: int, queries: NDArray[np.int32], n: np.float32, job: SumJob, scratch: Scratch) -> int:
    """Move queries for which keys of a leaf may count, by their sketches, to the front; return their number.

    n is the number of training patches in the leaf.
    """
    log_n = np.float32(math.log(n))
    scale = np.float32(-2.0) / job.patches.precision
    count = 0
    for q in queries:
        tolerated = min(job.threshold[q], np.float32(0.0)) - _SKETCH_MARGIN
        log_w = tolerated + np.float32(job.results.log_z[q]) - log_n
        distance = np.float32(math.sqrt(max(np.float32(0.0), scale * log_w)))
        if may_be_nearer(distance, leaf, job.patches, q, job.sketches, scratch):
            queries[count] = q
            count += 1
    return count


@compiled
def _visit(
    groups: Groups,
    number: int,
    queries: NDArray[np.int32],
    nearest: NDArray[np.int64],
    job: SumJob,
    block: Block,
    opened: _Opened,
) -> None:
    """List the queries that open each group of a block, and add unopened groups to the sums of the others.

    Group `nearest[q]` is always opened for query q.
    """
    opened.length[:] = 0
    patches, outputs, sums, scores = job.patches, job.outputs, job.results.groups, block.scores
    sharp = len(job.sharp.scaled) > 0
    first, end = groups.first[number], groups.first[number] + groups.size[number]
    load(block, groups, number, patches.precision)
    targets_loaded = False
    for q in queries:
        z, threshold = np.float32(job.results.log_z[q]), job.threshold[q]
        score(patches, q, z, groups, number, block)
        opening = maximum(scores, LOG_ERROR * LANES) > threshold
        opening = opening or first <= nearest[q] < end or outputs.bounds
        if not opening and not _counts(scores, outputs):
            continue
        fill_masses(block)
        if opening:
            limit = np.float32(math.exp(min(threshold, LARGEST_THRESHOLD)))
            for k in range(end - first):
                opens = scores[ERROR, k] > limit or first + k == nearest[q]
                opens = opens or (sharp and scores[MASS, k] > limit)  # keys much alike differ at less noise
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
                    opened.queries[k, opened.length[k]] = q
                    opened.length[k] += 1
        if _counts(scores, outputs):
            if not targets_loaded and patches.weights.shape[1] == 0:
                load_targets(block, groups, number)
                targets_loaded = True
            add_groups(sums, q, patches, groups, number, block, outputs)


@compiled
def _counts(scores: NDArray[np.float32], outputs: OutputFlags) -> bool:
    """Return whether an unopened group of a block has a weight, or an error, that is not negligible."""
    return maximum(scores, LOG_MASS * LANES) > _LOG_NEGLIGIBLE or (
        outputs.error and maximum(scores, LOG_ERROR * LANES) > _LOG_NEGLIGIBLE
    )
