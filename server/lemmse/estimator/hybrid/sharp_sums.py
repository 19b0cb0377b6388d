"""Sums over the keys of a leaf for sharp queries, in float64; see `sharp_queries`."""

import math

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.leaf_sums import Scratch, key_scores, scale_groups, scale_keys
from lemmse.estimator.hybrid.numbers import LOG2_E, compiled, rounded_down
from lemmse.estimator.hybrid.records import KeyArrays, SumJob
from lemmse.estimator.hybrid.simd import LANES

__all__ = ["add_sharp_keys", "begin_at_nearest"]

_LOG_NEGLIGIBLE = -10.0
"""Keys with less than e^−10 of the weight of the heaviest key at r times the variance, hence with less than
e^−40 of it at the given noise, are not weighed again."""


@compiled
def begin_at_nearest(queries: NDArray[np.int32], job: SumJob, scratch: Scratch) -> None:
    """Let log_z of sharp queries be the weight of the heaviest key in the leaf that is always opened.

    The estimate of Σ w may be larger than the weight of any key, so that nearest keys would stay closed.
    It is set once, before any key was read.
    """
    for q in queries:
        leaf = job.normalizer.leaf[q]
        if leaf >= 0 and job.sharp.heaviest[q] == -np.inf:
            heaviest = key_scores(leaf, job.patches, q, job.keys, scratch)
            job.results.log_z[q] = np.float64(heaviest) / np.float64(LOG2_E)


@compiled
def add_sharp_keys(leaf: int, queries: NDArray[np.int32], job: SumJob, scratch: Scratch) -> None:
    """Add the keys of a leaf, weighed in float64, to the sums of the given sharp queries."""
    keys, results, sharp = job.keys, job.results, job.sharp
    count = keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
    for q in queries:
        score_max = key_scores(leaf, job.patches, q, keys, scratch)
        results.evaluated[q] += count
        log_max = np.float64(score_max) / np.float64(LOG2_E)
        sharp.heaviest[q] = max(sharp.heaviest[q], log_max)
        if log_max > results.log_z[q]:
            log_z = rounded_down(log_max)  # as in the scores of groups
            scale_groups(results.groups, q, math.exp(min(0.0, results.log_z[q] - log_z)))
            results.log_z[q] = log_z
        least = np.float32((sharp.heaviest[q] + _LOG_NEGLIGIBLE) * LOG2_E)
        run = 0
        while scratch.moments[run] >= 0:
            for k in range(LANES):
                if scratch.scores[run, k] >= least:
                    _add_key(scratch.codes[run] + k, scratch.moments[run] + k, q, job)
            run += 1


@compiled
def _add_key(code: int, moment: int, q: int, job: SumJob) -> None:
    """Add a key, whose numbers and moments begin at given places, to the sums of a sharp query."""
    keys, sharp, sums, moments = job.keys, job.sharp, job.results.keys, job.keys.moments
    t_length = sums.wt.shape[1]
    log_w = np.float64(0.0)
    for i in range(sharp.centre.shape[0]):
        d = _coordinate(keys, code, i) - sharp.centre[i]
        log_w += d * (sharp.scaled[q, i] - 0.5 * sharp.precision[q, i] * d)
    if log_w > sums.log_max[q]:
        scale_keys(sums, q, math.exp(sums.log_max[q] - log_w))
        sums.log_max[q] = log_w
    w = math.exp(log_w - sums.log_max[q])
    n_w = w * moments[moment]
    sums.w[q] += n_w
    for c in range(t_length):
        sums.wt[q, c] += w * moments[moment + (1 + c) * LANES]
    if job.outputs.variance:
        for c in range(t_length):
            sums.wt2[q, c] += w * moments[moment + (1 + t_length + c) * LANES]
    if job.outputs.ess:
        sums.w2[q] += w * n_w
    for i in range(sums.wv.shape[1]):
        sums.wv[q, i] += n_w * _coordinate(keys, code, i)


@compiled
def _coordinate(keys: KeyArrays, code: int, i: int) -> np.float64:
    return keys.exact_low + keys.exact_step * np.float64(keys.codes[code + i * LANES])
