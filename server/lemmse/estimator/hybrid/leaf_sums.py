"""Sums over the keys of a leaf, LANES of them side by side, for one query after another."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.numbers import (
    ABSENT,
    LOG2_E,
    aligned,
    compiled,
    compiled_to_allocate,
    exp2,
    rounded_down,
)
from lemmse.estimator.hybrid.records import KeyArrays, Patches, Results, Wanted
from lemmse.estimator.hybrid.simd import LANES, add_squares, add_weighted_squares, dot, maximum

__all__ = ["Scratch", "add_keys", "key_scores", "scratch_of"]

_NEGLIGIBLE = -30.0
"""Keys that weigh less than e^−30 of the heaviest do not show."""
_TOO_LITTLE = 1e-9
"""Keys that weigh less than this share of the heaviest do not show in a mean of patches."""
_MORE = 0.1
"""What is known of log Σ w is corrected by no less."""


class Scratch(NamedTuple):
    """What the keys of a leaf are scored in."""

    scores: NDArray[np.float32]
    """log2 w of runs of LANES keys."""
    codes: NDArray[np.int64]
    """Where each run begins in the codes."""
    moments: NDArray[np.int64]
    """Where it begins in the moments, and −1."""
    x: NDArray[np.float32]
    """A query, (P,)."""
    sums: NDArray[np.float32]
    """(LANES,)."""


@compiled_to_allocate
def scratch_of(keys: KeyArrays, p: int) -> Scratch:
    """What the keys of the largest leaf can be scored in; a leaf may begin and end within a run."""
    runs = keys.longest // LANES + 2
    return Scratch(
        aligned(runs * LANES).reshape(runs, LANES),
        np.empty(runs, np.int64),
        np.empty(runs + 1, np.int64),
        aligned(p),
        aligned(LANES),
    )


@compiled
def key_scores(leaf: int, patches: Patches, q: int, keys: KeyArrays, scratch: Scratch) -> np.float32:
    """Fill the scores log2 w of the keys of a leaf, LANES at a time; gives the largest."""
    scores, weights, p = scratch.scores, patches.precision.shape[1], patches.steps.shape[1]
    scale = np.float32(-0.5) * LOG2_E * keys.step * keys.step / patches.sigma2
    codes, moments, lane = keys.leaf_codes[leaf], keys.leaf_moments[leaf], keys.leaf_lane[leaf]
    end = lane + keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
    score_max = ABSENT
    run = 0
    while end > 0:
        if weights > 0:
            add_weighted_squares(
                patches.steps, patches.precision, q * p, q * weights, keys.codes, codes, p,
                scores, run * LANES,
            )  # fmt: skip
        else:
            add_squares(patches.steps, q * p, keys.codes, codes, p, scores, run * LANES)
        for k in range(LANES):
            scores[run, k] = scale * scores[run, k] if lane <= k < end else ABSENT
        score_max = max(score_max, maximum(scores, run * LANES))
        scratch.codes[run], scratch.moments[run] = codes, moments
        codes, moments = codes + p * LANES, moments + keys.moment_rows * LANES
        lane, end = 0, end - LANES
        run += 1
    scratch.moments[run] = -1
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
    scores, moments, opened = scratch.scores, scratch.moments, results.opened
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
        while moments[run] >= 0:
            for k in range(LANES):
                scores[run, k] = exp2(scores[run, k] - score_max)
            for c in range(needed):
                opened[q, c] += factor * dot(scores, run * LANES, keys.moments, moments[run] + c * LANES)
            if want.patch and factor * maximum(scores, run * LANES) > _TOO_LITTLE:
                _add_patches(run, factor, q, keys, scratch, results)
            if want.ess:
                for k in range(LANES):
                    scores[run, k] *= scores[run, k]
                opened[q, rows] += factor * factor * dot(scores, run * LANES, keys.moments, moments[run])
            run += 1
        log_sum = results.opened_max[q] + math.log(opened[q, 0])
        if log_sum > results.log_z[q] + _MORE:
            _raise(q, rounded_down(log_sum), results)  # as the scores of groups will see it


@compiled
def _add_patches(
    run: int, factor: float, q: int, keys: KeyArrays, scratch: Scratch, results: Results
) -> None:
    """Add Σ w v over a run of keys to the sums of a query."""
    weights = scratch.sums
    for k in range(LANES):
        weights[k] = scratch.scores[run, k] * keys.moments[scratch.moments[run] + k]
    total = np.float64(0.0)
    for k in range(LANES):
        total += weights[k]
    for i in range(results.opened_v.shape[1]):
        steps = dot(weights, 0, keys.codes, scratch.codes[run] + i * LANES)
        results.opened_v[q, i] += factor * (keys.step * steps + total * keys.low)


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
