"""Sums over the keys of a leaf, LANES keys side by side, one query at a time."""

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
from lemmse.estimator.hybrid.records import GroupSums, KeyArrays, KeySums, Patches, SumJob
from lemmse.estimator.hybrid.simd import LANES, add_squares, add_weighted_squares, dot, maximum

__all__ = ["Scratch", "add_keys", "allocate_scratch", "key_scores", "scale_groups", "scale_keys"]

_LOG_NEGLIGIBLE = -30.0
"""Keys with less than e^−30 of the weight of the heaviest key are omitted."""
_NEGLIGIBLE = 1e-9
"""Keys with less than this share of the weight of the heaviest key are omitted from Σ w v."""
_CORRECTION = 0.1
"""Smallest correction that is made to the estimate of log Σ w."""


class Scratch(NamedTuple):
    """Working memory for the keys of a leaf."""

    scores: NDArray[np.float32]
    """log2 w, and later w, of runs of LANES keys, (runs, LANES)."""
    codes: NDArray[np.int64]
    """Start of each run in the codes, (runs,)."""
    moments: NDArray[np.int64]
    """Start of each run in the moments, with −1 after the last, (runs + 1,)."""
    sums: NDArray[np.float32]
    """Sums or weights of LANES keys, (LANES,)."""


@compiled_to_allocate
def allocate_scratch(keys: KeyArrays) -> Scratch:
    """Return working memory that fits the largest leaf.

    A leaf may begin and end within a run.
    """
    runs = keys.longest // LANES + 2
    return Scratch(
        aligned(runs * LANES).reshape(runs, LANES),
        np.empty(runs, np.int64),
        np.empty(runs + 1, np.int64),
        aligned(LANES),
    )


@compiled
def key_scores(leaf: int, patches: Patches, q: int, keys: KeyArrays, scratch: Scratch) -> np.float32:
    """Fill the scores log2 w of the keys of a leaf, and return the largest."""
    scores, weights, p = scratch.scores, patches.weights.shape[1], patches.steps.shape[1]
    codes, moments, lane = keys.leaf_codes[leaf], keys.leaf_moments[leaf], keys.leaf_lane[leaf]
    end = lane + keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
    score_max = ABSENT
    run = 0
    while end > 0:
        if weights > 0:
            add_weighted_squares(
                patches.steps, patches.weights, q * p, q * weights, keys.codes, codes, p,
                scores, run * LANES,
            )  # fmt: skip
        else:
            add_squares(patches.steps, q * p, keys.codes, codes, p, scores, run * LANES)
        for k in range(LANES):
            scores[run, k] = patches.score_scale * scores[run, k] if lane <= k < end else ABSENT
        score_max = max(score_max, maximum(scores, run * LANES))
        scratch.codes[run], scratch.moments[run] = codes, moments
        codes, moments = codes + p * LANES, moments + keys.moment_rows * LANES
        lane, end = 0, end - LANES
        run += 1
    scratch.moments[run] = -1
    return score_max


@compiled
def add_keys(leaf: int, queries: NDArray[np.int32], job: SumJob, scratch: Scratch) -> None:
    """Add the keys of a leaf to the sums of the given queries."""
    keys, outputs, results, sums = job.keys, job.outputs, job.results, job.results.keys
    t_length = sums.wt.shape[1]
    count = keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
    scores, moments = scratch.scores, scratch.moments
    for q in queries:
        score_max = key_scores(leaf, job.patches, q, keys, scratch)
        results.evaluated[q] += count
        log_max = np.float64(score_max) / np.float64(LOG2_E)
        if log_max > sums.log_max[q]:
            scale_keys(sums, q, math.exp(sums.log_max[q] - log_max))
            sums.log_max[q] = log_max
        relative = log_max - sums.log_max[q]
        if relative < _LOG_NEGLIGIBLE:
            continue
        factor = math.exp(relative)
        run = 0
        while moments[run] >= 0:
            first, row = run * LANES, moments[run]
            for k in range(LANES):
                scores[run, k] = exp2(scores[run, k] - score_max)
            sums.w[q] += factor * dot(scores, first, keys.moments, row)
            for c in range(t_length):
                sums.wt[q, c] += factor * dot(scores, first, keys.moments, row + (1 + c) * LANES)
            if outputs.variance:
                for c in range(t_length):
                    of_square = row + (1 + t_length + c) * LANES
                    sums.wt2[q, c] += factor * dot(scores, first, keys.moments, of_square)
            if outputs.patch and factor * maximum(scores, first) > _NEGLIGIBLE:
                _add_patches(run, factor, q, keys, scratch, sums)
            if outputs.ess:
                for k in range(LANES):
                    scores[run, k] *= scores[run, k]
                sums.w2[q] += factor * factor * dot(scores, first, keys.moments, row)
            run += 1
        log_sum = sums.log_max[q] + math.log(sums.w[q])
        if log_sum > results.log_z[q] + _CORRECTION:
            log_z = rounded_down(log_sum)  # as in the scores of groups
            scale_groups(results.groups, q, math.exp(results.log_z[q] - log_z))
            results.log_z[q] = log_z


@compiled
def _add_patches(run: int, factor: float, q: int, keys: KeyArrays, scratch: Scratch, sums: KeySums) -> None:
    """Add Σ w v over a run of keys to the sums of query q."""
    weights = scratch.sums
    for k in range(LANES):
        weights[k] = scratch.scores[run, k] * keys.moments[scratch.moments[run] + k]
    total = np.float64(0.0)
    for k in range(LANES):
        total += weights[k]
    for i in range(sums.wv.shape[1]):
        steps = dot(weights, 0, keys.codes, scratch.codes[run] + i * LANES)
        sums.wv[q, i] += factor * (keys.step * steps + total * keys.low)


@compiled
def scale_keys(sums: KeySums, q: int, factor: float) -> None:
    """Multiply the sums over keys of query q by a factor."""
    sums.w[q] *= factor
    sums.w2[q] *= factor * factor
    for c in range(sums.wt.shape[1]):
        sums.wt[q, c] *= factor
        sums.wt2[q, c] *= factor
    for i in range(sums.wv.shape[1]):
        sums.wv[q, i] *= factor


@compiled
def scale_groups(sums: GroupSums, q: int, factor: float) -> None:
    """Multiply the sums over unopened groups of query q by a factor on the weights."""
    sums.w[q] *= factor
    sums.least_w[q] *= factor
    sums.w2[q] *= factor * factor
    sums.a2[q] *= factor * factor
    for c in range(sums.wt.shape[1]):
        sums.wt[q, c] *= factor
        sums.wt2[q, c] *= factor
        sums.a2t[q, c] *= factor * factor
        sums.a2t2[q, c] *= factor * factor
        sums.low[q, c] *= factor
        sums.high[q, c] *= factor
    for i in range(sums.wv.shape[1]):
        sums.wv[q, i] *= factor
