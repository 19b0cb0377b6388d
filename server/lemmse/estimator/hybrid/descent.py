"""The descent from cells to leaves to keys, and the look at a few of them before it.

Both let go of the interpreter's lock and write to rows of their own, so that several run at once.
"""

import math

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.blocks import (
    HIDDEN,
    JENSEN,
    KEPT,
    LOG_HIDDEN,
    LOG_MASS,
    LOG_N,
    S_MAX,
    Block,
    S,
    add_closed,
    block_of,
    hide,
    load,
    load_targets,
    score,
)
from lemmse.estimator.hybrid.bounds import add_bounds, log_most
from lemmse.estimator.hybrid.leaf_sums import Scratch, add_keys, key_scores, scratch_of
from lemmse.estimator.hybrid.numbers import (
    ABSENT,
    LOG2_E,
    aligned,
    compiled,
    compiled_to_allocate,
    exp2,
    rounded_down,
)
from lemmse.estimator.hybrid.records import KeyArrays, Near, Patches, Results, Start, Wanted
from lemmse.estimator.hybrid.simd import LANES, dot, maximum
from lemmse.estimator.hybrid.sketch_bounds import Sketches, may_be_nearer
from lemmse.estimator.hybrid.tree import Tree
from lemmse.index.clustering.groups import Groups

__all__ = ["ANYTHING", "descend", "probe"]

ANYTHING = np.float32(80.0)
"""A threshold beyond which there is nothing more to allow."""

_NOTHING = np.float32(-16.0)
"""A closed group of less than e^−16 of the weight is passed over."""
_FEW = np.float32(3.0)
"""The keys of a leaf that holds less than e^−3 of the weight say little about all of it."""
_LESS = np.float32(3.0)
"""The keys of a leaf are passed over where they hold less than e^−3 of what a closed group may hide."""


@compiled_to_allocate
def probe(
    queries: NDArray[np.int32],
    patches: Patches,
    tree: Tree,
    stratum: int,
    keys: KeyArrays,
    near: Near,
    start: Start,
) -> None:
    """Fill what is known of some queries before anything is opened.

    log_z is the log of the sum over the keys of the most promising leaves of the most promising cells, and
    over all cells by their moments as far as these can be trusted: h(s) counts up to `trust`.
    """
    cells, leaves = tree.cells, tree.leaves
    count, sigma2 = len(queries), patches.sigma2
    block = block_of(cells)
    scores, trusted = block.scores, aligned(LANES)
    cell_mass = np.full((count, near.cells), ABSENT)
    near_cell = np.full((count, near.cells), -1)
    largest = np.full(count, ABSENT)
    total = np.zeros(count)
    for number in range(tree.strata_blocks[stratum], tree.strata_blocks[stratum + 1]):
        load(block, cells, number, sigma2)
        for j in range(count):
            score(patches, queries[j], np.float32(0.0), cells, number, block)
            for k in range(LANES):
                trusted[k] = min(scores[LOG_MASS, k], scores[JENSEN, k] + near.trust)
            top = maximum(trusted, 0)
            if maximum(scores, LOG_MASS * LANES) > cell_mass[j, near.cells - 1]:
                for k in range(cells.size[number]):
                    _insert(cell_mass, near_cell, j, scores[LOG_MASS, k], cells.first[number] + k)
            if top > largest[j]:
                total[j] *= math.exp(np.float64(largest[j]) - np.float64(top))
                largest[j] = top
            if top > largest[j] + _NOTHING:
                add = np.float32(0.0)
                for k in range(LANES):
                    add += exp2(LOG2_E * (trusted[k] - largest[j]))
                total[j] += add
    scratch = scratch_of(keys, patches.steps.shape[1])
    leaf_mass = np.full((count, near.leaves), ABSENT)
    near_leaf = np.full((count, near.leaves), -1)
    flat = near_cell.ravel()
    order = np.argsort(flat)  # one cell after the other, each with all queries near it
    begin = 0
    while begin < len(order):
        cell, end = flat[order[begin]], begin + 1
        while end < len(order) and flat[order[end]] == cell:
            end += 1
        for number in range(tree.cell_blocks[cell], tree.cell_blocks[cell + 1] if cell >= 0 else 0):
            load(block, leaves, number, sigma2)
            for place in order[begin:end]:
                j = place // near.cells
                score(patches, queries[j], np.float32(0.0), leaves, number, block)
                little = np.float32(np.float64(largest[j]) + math.log(total[j])) - _FEW
                for k in range(leaves.size[number]):
                    if scores[LOG_MASS, k] > little or scores[S, k] > block.constants[S_MAX, k]:
                        _insert(leaf_mass, near_leaf, j, scores[LOG_MASS, k], leaves.first[number] + k)
        begin = end
    for j in range(count):
        q = queries[j]
        reference = np.float64(largest[j])
        heaviest = -np.inf
        for k in range(near.leaves):
            leaf = near_leaf[j, k]
            if leaf < 0:
                continue
            n = keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
            if start.touched[q] + n > near.keys:
                continue
            start.touched[q] += n
            score_max = key_scores(leaf, patches, q, keys, scratch)
            w = np.float32(0.0)
            run = 0
            while scratch.moments[run] >= 0:
                for lane in range(LANES):
                    scratch.scores[run, lane] = exp2(scratch.scores[run, lane] - score_max)
                w += dot(scratch.scores, run * LANES, keys.moments, scratch.moments[run])
                run += 1
            log_max = np.float64(score_max) / np.float64(LOG2_E)
            if log_max > heaviest:
                heaviest = log_max
                start.leaf[q] = leaf
            if log_max > reference:
                total[j] = total[j] * math.exp(reference - log_max) + w
                reference = log_max
            else:
                total[j] += w * math.exp(log_max - reference)
        if start.leaf[q] >= 0:
            start.log_z[q] = reference + math.log(total[j])
            start.cell[q] = np.searchsorted(tree.cell_leaves, start.leaf[q], side="right") - 1
        else:  # moments are all there is
            start.log_z[q] = max(np.float64(cell_mass[j, 0]), reference + math.log(total[j]))


@compiled
def _insert(
    values: NDArray[np.float32], numbers: NDArray[np.int64], row: int, value: np.float32, number: int
) -> None:
    """Put a number among those of the largest values of a row, in descending order."""
    last = values.shape[1] - 1
    if value <= values[row, last]:
        return
    while last > 0 and values[row, last - 1] < value:
        values[row, last], numbers[row, last] = values[row, last - 1], numbers[row, last - 1]
        last -= 1
    values[row, last], numbers[row, last] = value, number


@compiled_to_allocate
def descend(
    queries: NDArray[np.int32],
    patches: Patches,
    start: Start,
    threshold: NDArray[np.float32],
    tree: Tree,
    stratum: int,
    keys: KeyArrays,
    sketches: Sketches,
    about: NDArray[np.float64],
    want: Wanted,
    results: Results,
) -> None:
    """Sum the groups of a stratum for some queries, opening cells into leaves and leaves into keys.

    Where bounds are wanted, groups are opened for what they can hold at most, and what stays closed is
    bounded about the means h, (Q, T).
    """
    for q in queries:  # scores are in float32, where much less than Σ w counts as nothing
        results.log_z[q] = rounded_down(results.log_z[q])
    cells, leaves = tree.cells, tree.leaves
    block = block_of(cells)
    scratch = scratch_of(keys, patches.steps.shape[1])
    inside = np.empty((LANES, len(queries)), np.int32)
    opened = np.empty((LANES, len(queries)), np.int32)
    in_cell, in_leaf = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    sketched = len(sketches.step) > 0 and not want.bounds and patches.precision.shape[1] == 0
    for number in range(tree.strata_blocks[stratum], tree.strata_blocks[stratum + 1]):
        _visit(
            cells, number, queries, patches, start.cell, threshold, about, want, block, inside,
            in_cell, results,
        )  # fmt: skip
        for k in range(cells.size[number]):
            of_cell = inside[k, : in_cell[k]]
            if len(of_cell) == 0:
                continue
            cell = cells.first[number] + k
            for below in range(tree.cell_blocks[cell], tree.cell_blocks[cell + 1]):
                _visit(
                    leaves, below, of_cell, patches, start.leaf, threshold, about, want, block,
                    opened, in_leaf, results,
                )  # fmt: skip
                for j in range(leaves.size[below]):
                    leaf, count = leaves.first[below] + j, in_leaf[j]
                    if count == 0:
                        continue
                    if sketched:
                        count = _near(
                            leaf,
                            opened[j, :count],
                            patches,
                            results.log_z,
                            threshold,
                            leaves.n[below, j],
                            sketches,
                            scratch,
                        )
                    add_keys(leaf, opened[j, :count], patches, keys, want, scratch, results)


@compiled
def _near(
    leaf: int,
    queries: NDArray[np.int32],
    patches: Patches,
    log_z: NDArray[np.float64],
    threshold: NDArray[np.float32],
    n: np.float32,
    sketches: Sketches,
    scratch: Scratch,
) -> int:
    """Put first those queries for which a key of a leaf may count, by its sketches; gives their number.

    n training patches have its keys.
    """
    log_n = np.float32(math.log(n))
    count = 0
    for q in queries:
        log_w = min(threshold[q], np.float32(0.0)) - _LESS + np.float32(log_z[q]) - log_n
        distance = np.float32(math.sqrt(max(np.float32(0.0), np.float32(-2.0) * patches.sigma2 * log_w)))
        if may_be_nearer(distance, leaf, patches, q, sketches, scratch):
            queries[count] = q
            count += 1
    return count


@compiled
def _visit(
    groups: Groups,
    number: int,
    queries: NDArray[np.int32],
    patches: Patches,
    nearest: NDArray[np.int64],
    threshold: NDArray[np.float32],
    about: NDArray[np.float64],
    want: Wanted,
    block: Block,
    opened: NDArray[np.int32],
    count: NDArray[np.int64],
    results: Results,
) -> None:
    """List in `opened` the queries that open each group of a block, and add it to the sums of all others.

    `count` takes the lengths of the lists.
    """
    count[:] = 0
    scores = block.scores
    first, end = groups.first[number], groups.first[number] + groups.size[number]
    load(block, groups, number, patches.sigma2)
    targets_loaded = False
    for q in queries:
        z = np.float32(results.log_z[q])
        score(patches, q, z, groups, number, block)
        opening = maximum(scores, LOG_HIDDEN * LANES) > threshold[q]
        opening = opening or first <= nearest[q] < end or want.bounds
        if not opening and not _counts(scores, want):
            continue
        hide(block)
        if opening:
            limit = np.float32(math.exp(min(threshold[q], ANYTHING)))
            for k in range(end - first):
                opens = scores[HIDDEN, k] > limit or first + k == nearest[q]
                if want.bounds:
                    low, high = groups.low[first + k], groups.high[first + k]
                    most = (
                        log_most(patches.extent[q], low, high, block.constants[LOG_N, k], patches.sigma2) - z
                    )
                    opens = opens or most > threshold[q]
                    if not opens:
                        low, high = groups.target_low[first + k], groups.target_high[first + k]
                        add_bounds(results.bounds[q], about[q], most, scores[JENSEN, k], low, high)
                if opens:
                    scores[KEPT, k] = np.float32(0.0)
                    scores[LOG_MASS, k] = scores[LOG_HIDDEN, k] = ABSENT
                    opened[k, count[k]] = q
                    count[k] += 1
        if _counts(scores, want):
            if not targets_loaded and patches.precision.shape[1] == 0:
                load_targets(block, groups, number)
                targets_loaded = True
            add_closed(results, q, patches, groups, number, block, want)


@compiled
def _counts(scores: NDArray[np.float32], want: Wanted) -> bool:
    """Whether a group that is not open holds anything, or may."""
    return maximum(scores, LOG_MASS * LANES) > _NOTHING or (
        want.error and maximum(scores, LOG_HIDDEN * LANES) > _NOTHING
    )
