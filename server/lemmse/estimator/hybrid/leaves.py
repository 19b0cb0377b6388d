"""Sums over the keys of a leaf, LANES of them side by side, for one query after another."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.numbers import ABSENT, LOG2_E, aligned, compiled, compiled_to_allocate, exp2
from lemmse.estimator.hybrid.records import KeyArrays, Patches, Results, Wanted
from lemmse.estimator.lanes import LANES, add_products, add_weighted_squares, dot, maximum

__all__ = ["Scratch", "add_keys", "key_scores", "scratch_of"]

_NEGLIGIBLE = -30.0
"""Keys that weigh less than e^−30 of the heaviest do not show."""
_TOO_LITTLE = 1e-9
"""Keys that weigh less than this share of the heaviest do not show in a mean of patches."""
_MORE = 0.1
"""What is known of log Σ w is corrected by no less."""


class Scratch(NamedTuple):
    """What the keys of a leaf are scored in."""

    centred: NDArray[np.float32]
    """Query less the centre of a tile, and 1."""
    scores: NDArray[np.float32]
    """log2 w of runs of LANES keys."""
    place: NDArray[np.int64]
    """First key of each run, and −1."""
    tile: NDArray[np.int64]
    """The tile it lies in."""
    sums: NDArray[np.float32]
    """(LANES,)."""


@compiled_to_allocate
def scratch_of(keys: KeyArrays, p: int) -> Scratch:
    """What the keys of the largest leaf can be scored in; a leaf may reach over the edges of tiles."""
    runs = keys.longest // LANES + 3
    return Scratch(
        aligned(p + 2),
        aligned(runs * LANES).reshape(runs, LANES),
        np.empty(runs + 1, np.int64),
        np.empty(runs, np.int64),
        aligned(LANES),
    )


@compiled
def key_scores(leaf: int, patches: Patches, q: int, keys: KeyArrays, scratch: Scratch) -> np.float32:
    """Fill the scores log2 w of the keys of a leaf, LANES at a time; gives the largest."""
    scores, centred, weights = scratch.scores, scratch.centred, patches.precision.shape[1]
    scale = np.float32(-0.5) * LOG2_E if weights > 0 else LOG2_E / patches.sigma2
    first, stop, tile = keys.leaf_keys[leaf], keys.leaf_keys[leaf + 1], keys.leaf_tile[leaf]
    score_max = ABSENT
    run = 0
    while first < stop:
        stride = keys.strides[tile]
        rows = (keys.offsets[tile + 1] - keys.offsets[tile]) // stride
        end = min(stop, keys.edges[tile + 1])
        square = np.float32(0.0)
        for i in range(patches.pixels.shape[1]):
            x = patches.pixels[q, i] - keys.centres[tile, i]
            square += x * x
            centred[i] = x
        square *= np.float32(0.5)
        centred[rows - 1] = np.float32(1.0)
        if weights > 0:
            square = np.float32(0.0)
        while first < end:
            row = keys.offsets[tile] + first - keys.edges[tile]
            if weights > 0:
                add_weighted_squares(
                    centred, patches.precision, q * weights, keys.features, row, stride, weights,
                    scores, run * LANES,
                )  # fmt: skip
            else:
                add_products(centred, 0, keys.features, row, stride, rows + rows % 2, scores, run * LANES)
            count = min(end - first, LANES)
            for k in range(LANES):
                score = scale * (scores[run, k] - square) if k < count else ABSENT
                scores[run, k] = score
            score_max = max(score_max, maximum(scores, run * LANES))
            scratch.place[run] = first
            scratch.tile[run] = tile
            first += count
            run += 1
        tile += 1
    scratch.place[run] = -1
    return score_max


@compiled
def add_keys(
    leaf: int,
    queries: NDArray[np.int32],
    patches: Patches,
    keys: KeyArrays,
    want: Wanted,
    scratch: Scratch,
    results: Results,
) -> None:
    """Add the keys of a leaf to the sums of some queries."""
    t_length = (results.opened.shape[1] - 2) // 2
    rows = 1 + 2 * t_length
    needed = rows if want.variance else 1 + t_length
    count = keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
    scores, place, opened = scratch.scores, scratch.place, results.opened
    for q in queries:
        score_max = key_scores(leaf, patches, q, keys, scratch)
        results.touched[q] += count
        log_max = np.float64(score_max) / np.float64(LOG2_E)
        if log_max > results.opened_max[q]:
            shrink = math.exp(results.opened_max[q] - log_max)
            for c in range(rows):
                opened[q, c] *= shrink
            opened[q, rows] *= shrink * shrink
            for i in range(results.opened_v.shape[1]):
                results.opened_v[q, i] *= shrink
            results.opened_max[q] = log_max
        relative = log_max - results.opened_max[q]
        if relative < _NEGLIGIBLE:
            continue
        factor = math.exp(relative)
        run = 0
        while place[run] >= 0:
            for k in range(LANES):
                scores[run, k] = exp2(scores[run, k] - score_max)
            for c in range(needed):
                of_key = c * keys.moments.shape[1] + place[run]
                opened[q, c] += factor * dot(scores, run * LANES, keys.moments, of_key)
            if want.patch and factor * maximum(scores, run * LANES) > _TOO_LITTLE:
                _add_patches(run, factor, q, keys, scratch, results)
            if want.ess:
                for k in range(LANES):
                    scores[run, k] *= scores[run, k]
                opened[q, rows] += factor * factor * dot(scores, run * LANES, keys.moments, place[run])
            run += 1
        log_sum = results.opened_max[q] + math.log(opened[q, 0])
        if log_sum > results.log_z[q] + _MORE:
            _raise(q, np.float64(np.float32(log_sum)), results)  # as the scores of groups will see it


@compiled
def _add_patches(
    run: int, factor: float, q: int, keys: KeyArrays, scratch: Scratch, results: Results
) -> None:
    """Add Σ w v over a run of keys to the sums of a query."""
    place, tile, weights = scratch.place[run], scratch.tile[run], scratch.sums
    for k in range(LANES):
        weights[k] = scratch.scores[run, k] * keys.moments[0, place + k]
    total = np.float64(0.0)
    for k in range(LANES):
        total += weights[k]
    row = keys.offsets[tile] + place - keys.edges[tile]
    for i in range(results.opened_v.shape[1]):
        moved = dot(weights, 0, keys.features, row + i * keys.strides[tile])
        results.opened_v[q, i] += factor * (moved + total * keys.centres[tile, i])


@compiled
def _raise(q: int, log_z: np.float64, results: Results) -> None:
    """Take sums over closed groups of a query relative to more weight."""
    t_length = (results.opened.shape[1] - 2) // 2
    shrink = math.exp(results.log_z[q] - log_z)
    results.log_z[q] = log_z
    for c in range(1 + 2 * t_length):
        results.closed[q, c] *= shrink
        results.bounds[q, c] *= shrink
    for i in range(results.closed_v.shape[1]):
        results.closed_v[q, i] *= shrink
    for c in range(1 + 2 * t_length, 3 + 4 * t_length):
        results.closed[q, c] *= shrink * shrink
