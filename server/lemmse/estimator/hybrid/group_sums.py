"""Sums over groups of keys by their summary statistics, LANES groups side by side, one query at a time.

For a group of n keys with mean μ, variances D, mean target t̄ and covariance Cov(t, v), a query u with d = u
− μ, and white noise of precision λ = 1/σ²,

    q = λ Σ_i d_i²      s² = λ² Σ_i D_i d_i²      s_max = √(2 log n)
    log mass = log n − ½ max(q + λ Σ_i D_i − 2 h(s),  λ Σ_i d_i² / (1 + λ D_i) + log(1 + λ D_i))
    h(s) = ½ s²  up to s_max, and  s s_max − ½ s_max²  beyond
    mean = t̄ + min(1, s_max / s) Cov(t, v) (D + σ² I)⁻¹ d

The first argument of the maximum stands for the most that n keys can hold (Jensen's inequality, raised by h),
the second for the mass of a Gaussian with this mean and these variances. All logarithms are natural, and
masses are relative to the estimate of Σ w.

Every loop over LANES groups compiles to a few vector instructions. All functions release the interpreter
lock, and each call writes only to the rows of its own queries, so that several threads can run at once.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.numbers import ABSENT, LOG2_E, aligned, compiled, compiled_to_allocate, exp2, log
from lemmse.estimator.hybrid.records import GroupSums, OutputFlags, Patches
from lemmse.estimator.hybrid.simd import (
    LANES,
    add_distances,
    add_products,
    add_squares,
    add_weighted,
    add_weighted_products,
    dot,
    posterior_means,
)
from lemmse.index.clustering.groups import Groups

__all__ = [
    "CLOSED",
    "ERROR",
    "JENSEN",
    "LARGEST_LOG",
    "LOG_ERROR",
    "LOG_MASS",
    "LOG_N",
    "NEAREST",
    "OFFSET",
    "S_MAX",
    "TAIL",
    "VARIANCE_FACTOR",
    "Block",
    "S",
    "add_groups",
    "allocate_block",
    "fill_masses",
    "load",
    "load_targets",
    "score",
]

# Rows of Block.constants, Block.sums and Block.scores. The compiler knows that rows of one array do not
# overlap, which it does not know of separate arrays; otherwise it would not vectorise the loops over them.
LOG_N, S_MAX, JENSEN_CONSTANT, GAUSSIAN_CONSTANT, TRACE, HALF_SQUARE, OTHERS_GAIN = range(7)
DISTANCE, S_SQUARE, GAUSSIAN_DISTANCE = range(3)
LOG_MASS, JENSEN, S, LOG_ERROR, MASS, ERROR, CLOSED, NEAREST = range(8)

LARGEST_LOG = np.float32(40.0)
"""Largest log mass: with a budget, unopened groups may seem to outweigh Σ w, but squares must stay finite."""
_LEAST_S_MAX = np.float32(1e-6)
"""Positive substitute for s_max = 0 of a single key, which is a divisor."""
_TINY = np.float32(1e-20)
"""Added to a divisor that may be 0."""
VARIANCE_FACTOR = np.float32(1.3)
TAIL = np.float32(4 / 80)
OFFSET = np.float32(2.0)
"""Corrections for outliers: distances in a group of image patches vary more than its moments imply."""


class Block(NamedTuple):
    """Working memory for LANES groups side by side: R leading coordinates, T targets."""

    gain: NDArray[np.float32]
    """λ / (1 + λ D) = 1/(σ² + D) of the leading coordinates, (R, LANES)."""
    slope: NDArray[np.float32]
    """Cov(t, v) · gain, (T, R, LANES)."""
    slope_at_mean: NDArray[np.float32]
    """Σ_i slope_i μ_i, (T, LANES)."""
    unexplained: NDArray[np.float32]
    """Residual variance of the target after its regression on the key, (T, LANES)."""
    constants: NDArray[np.float32]
    """Constants for each group: log n; s_max; log n − ½ λ Σ D; log n − ½ Σ log(1 + λ D); λ Σ D; ½ λ² Σ D²;
    and the gain of the other coordinates, (7, LANES), rows LOG_N … OTHERS_GAIN."""
    sums: NDArray[np.float32]
    """Sums for a query: λ Σ d²; s² = λ² Σ D d²; Σ gain d², (3, LANES), rows DISTANCE … GAUSSIAN_DISTANCE."""
    scores: NDArray[np.float32]
    """Scores for a query, relative to e^log_z: log mass; log n + mean log w; s; an upper bound of the log of
    the error a; mass; a; and 1 if the group stays unopened, else 0, (7, LANES), rows LOG_MASS … CLOSED."""
    spare: NDArray[np.float32]
    """(3, LANES)."""


@compiled_to_allocate
def allocate_block(groups: Groups) -> Block:
    """Return working memory that fits any block of these groups."""
    t_length, leading = groups.cross.shape[1:3]
    return Block(
        gain=aligned(leading * LANES).reshape(leading, LANES),
        slope=aligned(t_length * leading * LANES).reshape(t_length, leading, LANES),
        slope_at_mean=aligned(t_length * LANES).reshape(t_length, LANES),
        unexplained=aligned(t_length * LANES).reshape(t_length, LANES),
        constants=aligned(7 * LANES).reshape(7, LANES),
        sums=aligned(3 * LANES).reshape(3, LANES),
        scores=aligned(8 * LANES).reshape(8, LANES),
        spare=aligned(3 * LANES).reshape(3, LANES),
    )


@compiled
def load(block: Block, groups: Groups, number: int, precision: np.float32) -> None:
    """Fill the gain and the constants of a block of groups, for noise of precision λ."""
    log_n, s_max, jensen, gaussian, trace, square = (
        block.constants[LOG_N],
        block.constants[S_MAX],
        block.constants[JENSEN_CONSTANT],
        block.constants[GAUSSIAN_CONSTANT],
        block.constants[TRACE],
        block.constants[HALF_SQUARE],
    )
    product, exponent = block.spare[0], block.spare[1]
    for k in range(LANES):
        trace[k] = square[k] = exponent[k] = np.float32(0.0)
        product[k] = np.float32(1.0)
    for i in range(groups.leading.shape[1]):
        variances, gain = groups.leading[number, i, 1], block.gain[i]
        for k in range(LANES):
            variance = variances[k]
            ratio = np.float32(1.0) + variance * precision
            gain[k] = precision / ratio
            trace[k] += variance * precision
            square[k] += np.float32(0.5) * variance * precision * variance * precision
            # The product of all ratios is kept as a number below 2 and a power of 2, so that one logarithm
            # suffices.
            bits = np.float32(product[k] * ratio).view(np.int32)
            exponent[k] += np.float32((bits >> np.int32(23)) - np.int32(127))
            product[k] = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    others = np.float32(groups.others.shape[1])
    for k in range(LANES):
        n = groups.n[number, k]
        log_n[k] = ABSENT if n == 0 else np.float32(math.log(n))
        s_max[k] = max(_LEAST_S_MAX, np.float32(math.sqrt(2.0 * max(log_n[k], np.float32(0.0)))))
        ratio = groups.variance[number, k] * precision
        trace[k] += others * ratio
        square[k] += np.float32(0.5) * others * ratio * ratio
        jensen[k] = log_n[k] - np.float32(0.5) * trace[k]
        gaussian[k] = log_n[k] - np.float32(0.5) * (
            log(product[k]) + exponent[k] / LOG2_E + others * log(np.float32(1.0) + ratio)
        )
        block.constants[OTHERS_GAIN, k] = precision / (np.float32(1.0) + ratio)


@compiled
def load_targets(block: Block, groups: Groups, number: int) -> None:
    """Fill the regression of the targets on the keys of a block of groups, after `load`."""
    t_length, leading = groups.cross.shape[1:3]
    for c in range(t_length):
        slope_at_mean, explained = block.slope_at_mean[c], block.spare[0]
        for k in range(LANES):
            slope_at_mean[k] = explained[k] = np.float32(0.0)
        for i in range(leading):
            cross, gain, mean = groups.cross[number, c, i], block.gain[i], groups.leading[number, i, 0]
            slope = block.slope[c, i]
            for k in range(LANES):
                b = cross[k] * gain[k]
                slope[k] = b
                slope_at_mean[k] += b * mean[k]
                explained[k] += b * cross[k]
        for k in range(LANES):
            variance = groups.target_variance[number, c, k]
            block.unexplained[c, k] = max(np.float32(0.0), variance - explained[k])


@compiled
def _fill_white_sums(patches: Patches, q: int, groups: Groups, number: int, block: Block) -> None:
    """Fill the sums for a query with white noise."""
    p, leading, others = patches.u.shape[1], groups.leading.shape[1], groups.others.shape[1]
    sums, spare, precision = block.sums, block.spare, patches.precision
    add_distances(patches.u, q * p, groups.leading, number * leading * 2 * LANES, block.gain, leading, sums)
    add_squares(patches.u, q * p + leading, groups.others, number * others * LANES, others, spare, 0)
    for k in range(LANES):
        square = spare[0, k]
        sums[DISTANCE, k] = (sums[DISTANCE, k] + square) * precision
        sums[S_SQUARE, k] = (sums[S_SQUARE, k] + groups.variance[number, k] * square) * precision * precision
        sums[GAUSSIAN_DISTANCE, k] += block.constants[OTHERS_GAIN, k] * square


@compiled
def _fill_weighted_sums(patches: Patches, q: int, groups: Groups, number: int, block: Block) -> None:
    """Fill the sums for a query with a precision for each pixel, and the constants, which depend on it.

    Λ and the covariance C of a group are not diagonal in a common basis. Therefore s² is computed with C
    replaced by the mean of its variances times I; the Gaussian mass is computed with q² / (q + s²) in place
    of dᵀ (Λ⁻¹ + C)⁻¹ d, and with the log determinant of r equal variances, r being the effective number of
    variances of C.
    """
    p = groups.leading.shape[1]
    add_weighted(patches.u, patches.weights, q * p, groups.leading, number * p * 2 * LANES, p, block.sums)
    sums, constants = block.sums, block.constants
    for k in range(LANES):
        distance, trace = sums[DISTANCE, k], sums[GAUSSIAN_DISTANCE, k]
        s2 = sums[S_SQUARE, k] * groups.isotropic[number, 0, k]
        rank = groups.isotropic[number, 1, k]
        sums[S_SQUARE, k] = s2
        sums[GAUSSIAN_DISTANCE, k] = distance * distance / (distance + s2 + _TINY)
        constants[JENSEN_CONSTANT, k] = constants[LOG_N, k] - np.float32(0.5) * trace
        constants[GAUSSIAN_CONSTANT, k] = constants[LOG_N, k] - np.float32(0.5) * rank * log(
            np.float32(1.0) + trace / rank
        )
        constants[TRACE, k] = trace
        constants[HALF_SQUARE, k] = np.float32(0.5) * trace * trace / rank


@compiled
def score(patches: Patches, q: int, z: np.float32, groups: Groups, number: int, block: Block) -> None:
    """Fill the scores LOG_MASS, JENSEN, S and LOG_ERROR for a query, relative to e^z."""
    if patches.weights.shape[1] > 0:
        _fill_weighted_sums(patches, q, groups, number, block)
    else:
        _fill_white_sums(patches, q, groups, number, block)
    reach = np.float32(math.sqrt(max(np.float32(0.0), np.float32(-2.0) * z)))
    sums, constants, scores = block.sums, block.constants, block.scores
    for k in range(LANES):
        s_max = constants[S_MAX, k]
        s = np.float32(np.sqrt(sums[S_SQUARE, k]))
        held = min(s, s_max)
        jensen = constants[JENSEN_CONSTANT, k] - np.float32(0.5) * sums[DISTANCE, k] - z
        gaussian = constants[GAUSSIAN_CONSTANT, k] - np.float32(0.5) * sums[GAUSSIAN_DISTANCE, k] - z
        log_mass = min(jensen + held * (s - np.float32(0.5) * held), gaussian)
        square = sums[DISTANCE, k] + constants[TRACE, k] + _TINY
        variance = VARIANCE_FACTOR * (sums[S_SQUARE, k] + constants[HALF_SQUARE, k]) / square
        distance = np.float32(np.sqrt(max(np.float32(0.0), square - variance)))
        x = max(np.float32(0.0), distance - reach)
        x2 = x * x / (variance + _TINY)
        nearest = np.float32(0.5) * constants[LOG_N, k] - x2 / (np.float32(4.0) + TAIL * x2) - OFFSET
        scores[LOG_MASS, k] = min(log_mass, nearest) if s > s_max else log_mass
        scores[JENSEN, k] = jensen
        scores[S, k] = s
        scores[LOG_ERROR, k] = nearest if s > s_max else log_mass + s
        scores[NEAREST, k] = nearest


@compiled
def fill_masses(block: Block) -> None:
    """Fill the scores MASS, ERROR and CLOSED from the logarithms, with all groups unopened."""
    constants, scores = block.constants, block.scores
    for k in range(LANES):
        s, s_max = scores[S, k], constants[S_MAX, k]
        mass = exp2(LOG2_E * min(scores[LOG_MASS, k], LARGEST_LOG))
        growth = exp2(LOG2_E * min(s, s_max)) - np.float32(1.0)
        nearest = exp2(LOG2_E * min(scores[LOG_ERROR, k], LARGEST_LOG))
        scores[MASS, k] = mass
        scores[CLOSED, k] = np.float32(1.0)
        scores[ERROR, k] = nearest if s > s_max else mass * growth


@compiled
def _fill_shift(patches: Patches, q: int, groups: Groups, number: int, c: int, block: Block) -> None:
    """Fill spare[0] with the shift of the mean of target c, and spare[1] with its residual variance."""
    p, leading = patches.u.shape[1], groups.leading.shape[1]
    sums, spare, slope = block.sums, block.spare, c * leading * LANES
    if patches.weights.shape[1] > 0:
        t_length = len(block.unexplained)
        add_weighted_products(
            patches.u, patches.weights, q * p, groups.leading, number * p * 2 * LANES,
            groups.cross, number * t_length * p * LANES + slope, p, spare, 0,
        )  # fmt: skip
        for k in range(LANES):
            response = spare[0, k]
            kept = sums[DISTANCE, k] / (sums[DISTANCE, k] + sums[S_SQUARE, k] + _TINY)
            explained = response * response / (sums[S_SQUARE, k] + _TINY) * (np.float32(1.0) - kept)
            spare[0, k] = kept * response
            spare[1, k] = max(np.float32(0.0), groups.target_variance[number, c, k] - explained)
    else:
        add_products(patches.u, q * p, block.slope, slope, leading, spare, 0)
        for k in range(LANES):
            spare[0, k] -= block.slope_at_mean[c, k]
            spare[1, k] = block.unexplained[c, k]


@compiled
def _add_patches(
    wv: NDArray[np.float64], q: int, patches: Patches, groups: Groups, number: int, block: Block
) -> None:
    """Add the mean patches  μ + min(1, s_max / s) D (D + σ² I)⁻¹ d  of groups, times their masses."""
    p, leading, others = patches.u.shape[1], groups.leading.shape[1], groups.others.shape[1]
    constants, scores, spare = block.constants, block.scores, block.spare
    moving = np.float32(0.0)
    for k in range(LANES):
        mass, s_max = scores[MASS, k], constants[S_MAX, k]
        moved = mass * s_max / max(scores[S, k], s_max)
        spare[0, k] = moved
        moved *= groups.variance[number, k] * constants[OTHERS_GAIN, k]
        spare[1, k] = mass - moved
        moving += moved
    row = number * leading * 2 * LANES
    for i in range(leading):
        wv[q, i] += posterior_means(
            patches.u, q * p + i, groups.leading, row + i * 2 * LANES, block.gain, i * LANES,
            scores, MASS * LANES, spare, 0,
        )  # fmt: skip
    row = number * others * LANES
    for i in range(others):
        still = dot(spare, LANES, groups.others, row + i * LANES)
        wv[q, leading + i] += still + moving * patches.u[q, leading + i]


@compiled
def add_groups(
    sums: GroupSums, q: int, patches: Patches, groups: Groups, number: int, block: Block, outputs: OutputFlags
) -> None:
    """Add the unopened groups of a block to the sums of query q."""
    t_length = groups.cross.shape[1]
    constants, scores, spare = block.constants, block.scores, block.spare
    mass, error, closed = MASS * LANES, ERROR * LANES, CLOSED * LANES
    for k in range(LANES):
        scores[MASS, k] *= scores[CLOSED, k]
    if outputs.patch:
        _add_patches(sums.wv, q, patches, groups, number, block)
    sums.w[q] += dot(scores, mass, scores, closed)
    if outputs.ess:
        _fill_square_masses(block)
        sums.w2[q] += dot(spare, 0, scores, mass)
    if outputs.error:
        for k in range(LANES):
            scores[ERROR, k] *= scores[ERROR, k] * scores[CLOSED, k]
        sums.a2[q] += dot(scores, error, scores, closed)
    for c in range(t_length):
        _fill_shift(patches, q, groups, number, c, block)
        for k in range(LANES):
            shrink = constants[S_MAX, k] / max(scores[S, k], constants[S_MAX, k])
            t = groups.target[number, c, k] + shrink * spare[0, k]
            spare[0, k] = t
            spare[1, k] += t * t
        sums.wt[q, c] += dot(scores, mass, spare, 0)
        if outputs.variance:
            sums.wt2[q, c] += dot(scores, mass, spare, LANES)
        if outputs.error:
            sums.a2t[q, c] += dot(scores, error, spare, 0)
            sums.a2t2[q, c] += dot(scores, error, spare, LANES)


@compiled
def _fill_square_masses(block: Block) -> None:
    """Fill spare[0] with Σ w² / mass of each group.

    Σ w² is the mass at noise σ/√2, and is at most (Σ w)².
    """
    constants, scores, spare = block.constants, block.scores, block.spare
    for k in range(LANES):
        s_max, s = constants[S_MAX, k], scores[S, k]
        once, twice = min(s, s_max), min(np.float32(2.0) * s, s_max)
        growth = twice * (np.float32(2.0) * s - np.float32(0.5) * twice) - np.float32(2.0) * once * (
            s - np.float32(0.5) * once
        )
        share = exp2(min(np.float32(0.0), LOG2_E * (growth - constants[LOG_N, k])))
        spare[0, k] = scores[MASS, k] * share
