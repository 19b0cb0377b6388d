"""The estimate of the normalizing constant Σ w of each query, before any group is opened.

It combines the sum over the keys of the most promising leaves in the most promising cells with the sum over
all cells by their summary statistics, as far as these are reliable.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.group_sums import JENSEN, LOG_MASS, S_MAX, Block, S, allocate_block, load, score
from lemmse.estimator.hybrid.leaf_sums import Scratch, allocate_scratch, key_scores
from lemmse.estimator.hybrid.numbers import ABSENT, LOG2_E, aligned, compiled, compiled_to_allocate, exp2
from lemmse.estimator.hybrid.records import KeyArrays, Normalizer, Patches
from lemmse.estimator.hybrid.simd import LANES, dot, maximum
from lemmse.estimator.hybrid.tree import Tree
from lemmse.index.clustering.groups import Groups

__all__ = ["ProbeLimits", "probe"]

_LOG_NEGLIGIBLE = np.float32(-16.0)
"""Cells with less than e^−16 of the weight are omitted."""
_LOG_MINOR = np.float32(3.0)
"""Leaves with less than e^−3 of the weight are not read, since their keys contribute little to Σ w."""


class ProbeLimits(NamedTuple):
    """Limits on the work for an estimate of Σ w."""

    cells: int
    """Number of cells, those with the largest estimated mass, whose leaves are considered."""
    leaves: int
    """Number of leaves in these cells, those with the largest estimated mass, whose keys are evaluated."""
    keys: int
    """Largest number of keys evaluated."""
    largest_gain: np.float32
    """Largest h(s) in the log mass of a cell; larger values are unreliable before any group is opened."""


class _Estimates(NamedTuple):
    """Intermediate results of the estimates for J queries."""

    log_max: NDArray[np.float32]
    """Largest log mass of a cell, (J,)."""
    total: NDArray[np.float64]
    """Σ w over all cells, relative to e^log_max, (J,)."""
    cell_mass: NDArray[np.float32]
    """The largest log masses of cells, in descending order, (J, cells)."""
    cell: NDArray[np.int64]
    """Numbers of these cells; −1 where there are fewer, (J, cells)."""
    leaf_mass: NDArray[np.float32]
    """The largest log masses of leaves, in descending order, (J, leaves)."""
    leaf: NDArray[np.int64]
    """Numbers of these leaves; −1 where there are fewer, (J, leaves)."""


@compiled_to_allocate
def probe(
    queries: NDArray[np.int32],
    patches: Patches,
    tree: Tree,
    stratum: int,
    keys: KeyArrays,
    limits: ProbeLimits,
    normalizer: Normalizer,
) -> None:
    """Fill the estimates of the queries with the given numbers."""
    count = len(queries)
    block, trusted = allocate_block(tree.cells), aligned(LANES)
    estimates = _Estimates(
        log_max=np.full(count, ABSENT),
        total=np.zeros(count),
        cell_mass=np.full((count, limits.cells), ABSENT),
        cell=np.full((count, limits.cells), -1),
        leaf_mass=np.full((count, limits.leaves), ABSENT),
        leaf=np.full((count, limits.leaves), -1),
    )
    _add_cells(queries, patches, tree, stratum, limits.largest_gain, block, trusted, estimates)
    # Process one cell after the other, each with all queries that list it.
    flat_cells = estimates.cell.ravel()
    order = np.argsort(flat_cells)
    _find_leaves(queries, patches, tree, flat_cells, order, block, estimates)
    scratch = allocate_scratch(keys)
    for j in range(count):
        _add_leaves(j, queries[j], patches, keys, limits.keys, scratch, estimates, normalizer)
        leaf = normalizer.leaf[queries[j]]
        if leaf >= 0:
            normalizer.cell[queries[j]] = np.searchsorted(tree.cell_leaves, leaf, side="right") - 1


@compiled
def _add_cells(
    queries: NDArray[np.int32],
    patches: Patches,
    tree: Tree,
    stratum: int,
    largest_gain: np.float32,
    block: Block,
    trusted: NDArray[np.float32],
    estimates: _Estimates,
) -> None:
    """Sum over all cells of a stratum by their summary statistics, and list those with the largest mass."""
    cells, scores = tree.cells, block.scores
    log_max, total, last = estimates.log_max, estimates.total, estimates.cell.shape[1] - 1
    for number in range(tree.strata_blocks[stratum], tree.strata_blocks[stratum + 1]):
        load(block, cells, number, patches.precision)
        for j in range(len(queries)):
            score(patches, queries[j], np.float32(0.0), cells, number, block)
            for k in range(LANES):
                trusted[k] = min(scores[LOG_MASS, k], scores[JENSEN, k] + largest_gain)
            top = maximum(trusted, 0)
            if maximum(scores, LOG_MASS * LANES) > estimates.cell_mass[j, last]:
                _insert_groups(cells, number, j, scores, estimates.cell_mass, estimates.cell)
            if top > log_max[j]:
                total[j] *= math.exp(np.float64(log_max[j]) - np.float64(top))
                log_max[j] = top
            if top > log_max[j] + _LOG_NEGLIGIBLE:
                mass = np.float32(0.0)
                for k in range(LANES):
                    mass += exp2(LOG2_E * (trusted[k] - log_max[j]))
                total[j] += mass


@compiled
def _find_leaves(
    queries: NDArray[np.int32],
    patches: Patches,
    tree: Tree,
    flat_cells: NDArray[np.int64],
    order: NDArray[np.int64],
    block: Block,
    estimates: _Estimates,
) -> None:
    """List the leaves with the largest mass in the listed cells.

    `flat_cells` contains the listed cells of all queries, flattened, and `order` sorts it.
    """
    leaves, scores, cells_each = tree.leaves, block.scores, estimates.cell.shape[1]
    begin = 0
    while begin < len(order):
        cell, end = flat_cells[order[begin]], begin + 1
        while end < len(order) and flat_cells[order[end]] == cell:
            end += 1
        for number in range(tree.cell_blocks[cell], tree.cell_blocks[cell + 1] if cell >= 0 else 0):
            load(block, leaves, number, patches.precision)
            for place in order[begin:end]:
                j = place // cells_each
                score(patches, queries[j], np.float32(0.0), leaves, number, block)
                log_z = np.float32(np.float64(estimates.log_max[j]) + math.log(estimates.total[j]))
                for k in range(leaves.size[number]):
                    if scores[LOG_MASS, k] > log_z - _LOG_MINOR or scores[S, k] > block.constants[S_MAX, k]:
                        leaf = leaves.first[number] + k
                        _insert(estimates.leaf_mass, estimates.leaf, j, scores[LOG_MASS, k], leaf)
        begin = end


@compiled
def _add_leaves(
    j: int,
    q: int,
    patches: Patches,
    keys: KeyArrays,
    most_keys: int,
    scratch: Scratch,
    estimates: _Estimates,
    normalizer: Normalizer,
) -> None:
    """Fill the estimate of query q, which is row j of `estimates`, with the keys of its listed leaves."""
    log_max, total = np.float64(estimates.log_max[j]), estimates.total[j]
    heaviest = -np.inf
    for place in range(estimates.leaf.shape[1]):
        leaf = estimates.leaf[j, place]
        if leaf < 0:
            continue
        n = keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
        if normalizer.evaluated[q] + n > most_keys:
            continue
        normalizer.evaluated[q] += n
        score_max = key_scores(leaf, patches, q, keys, scratch)
        w = np.float32(0.0)
        run = 0
        while scratch.moments[run] >= 0:
            for lane in range(LANES):
                scratch.scores[run, lane] = exp2(scratch.scores[run, lane] - score_max)
            w += dot(scratch.scores, run * LANES, keys.moments, scratch.moments[run])
            run += 1
        leaf_max = np.float64(score_max) / np.float64(LOG2_E)
        if leaf_max > heaviest:
            heaviest = leaf_max
            normalizer.leaf[q] = leaf
        if leaf_max > log_max:
            total = total * math.exp(log_max - leaf_max) + w
            log_max = leaf_max
        else:
            total += w * math.exp(leaf_max - log_max)
    log_z = log_max + math.log(total)
    if normalizer.leaf[q] < 0:  # no leaf was read: use the statistics alone, with h(s) limited
        log_z = max(np.float64(estimates.cell_mass[j, 0]), log_z)
    normalizer.log_z[q] = log_z


@compiled
def _insert_groups(
    groups: Groups,
    number: int,
    row: int,
    scores: NDArray[np.float32],
    masses: NDArray[np.float32],
    numbers: NDArray[np.int64],
) -> None:
    """Insert the groups of a block into a row of the groups with the largest mass."""
    for k in range(groups.size[number]):
        _insert(masses, numbers, row, scores[LOG_MASS, k], groups.first[number] + k)


@compiled
def _insert(
    values: NDArray[np.float32], numbers: NDArray[np.int64], row: int, value: np.float32, number: int
) -> None:
    """Insert a value and its number into a row of the largest values, in descending order."""
    last = values.shape[1] - 1
    if value <= values[row, last]:
        return
    while last > 0 and values[row, last - 1] < value:
        values[row, last], numbers[row, last] = values[row, last - 1], numbers[row, last - 1]
        last -= 1
    values[row, last], numbers[row, last] = value, number
