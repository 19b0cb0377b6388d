"""Scores of a block of groups, LANES of them side by side, for one query at a time, from their moments.

For a group of n keys with mean μ, variances D, mean target t̄ and covariance Cov(t, v), and a query u,

    q = Σ_i (u_i − μ_i)² / σ²      s² = Σ_i D_i (u_i − μ_i)² / σ⁴      s_max = √(2 log n)
    log mass = log n − ½ max(q + Σ_i D_i / σ² − 2 h(s),  Σ_i (u_i − μ_i)² / (σ² + D_i) + log(1 + D_i / σ²))
    h(s) = ½ s²  up to s_max, and  s s_max − ½ s_max²  beyond
    mean = t̄ + min(1, s_max / s) Cov(t, v) (D + σ² I)⁻¹ (u − μ)

the first branch being what n keys can hold at most, the second the Gaussian. All logarithms are natural, and
masses relative to the estimate of Σ w that `probe` makes.

Groups and keys are taken LANES at a time, side by side, so that every loop over them is a few vector
instructions. Every function lets go of the interpreter's lock and writes to rows of its own, so that several
run at once.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.numbers import ABSENT, LOG2_E, aligned, compiled, compiled_to_allocate, exp2, log
from lemmse.estimator.hybrid.records import Patches, Results, Wanted
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
    "HIDDEN",
    "JENSEN",
    "KEPT",
    "LOG_HIDDEN",
    "LOG_MASS",
    "LOG_N",
    "S_MAX",
    "Block",
    "S",
    "add_closed",
    "block_of",
    "hide",
    "load",
    "load_targets",
    "score",
]

LOG_N, S_MAX, OF_JENSEN, OF_GAUSSIAN, TRACE, HALF_SQUARE, OTHERS = range(7)
PLAIN, S2, GAUSSIAN = range(3)
LOG_MASS, JENSEN, S, LOG_HIDDEN, MASS, HIDDEN, KEPT = range(7)
_HEAVIEST = np.float32(40.0)
"""Groups that a budget leaves closed may seem to outweigh all that is known, but squares must stay finite."""
_TINY = np.float32(1e-6)
"""Instead of the s_max of a single key, to be divided by."""
_NO_KEY = np.float32(1e-20)
"""Added to a variance that may be 0."""
_SPREAD = np.float32(1.3)
_TAIL = np.float32(4 / 80)
_OFFSET = np.float32(2.0)
"""Distances in a group of image patches vary more than its moments say, by these: see `hybrid`."""


class Block(NamedTuple):
    """What LANES groups side by side are scored in."""

    r: NDArray[np.float32]
    """1/(σ² + D) of the leading coordinates, (R, LANES)."""
    slope: NDArray[np.float32]
    """Cov(t, v) r, (T, R, LANES)."""
    of_mean: NDArray[np.float32]
    """Cov(t, v) r·μ, (T, LANES)."""
    rest: NDArray[np.float32]
    """Variance of the target that this leaves unexplained, (T, LANES)."""
    constants: NDArray[np.float32]
    """log n, s_max, log n − ½ Σ D/σ², log n − ½ Σ log(1 + D/σ²), Σ D/σ², ½ Σ D²/σ⁴, and 1/(σ² + D) of the
    other coordinates, (7, LANES), see LOG_N."""
    sums: NDArray[np.float32]
    """Σ d²/σ², s² = Σ D d²/σ⁴ and Σ r d² of d = u − μ for one query, (3, LANES), see PLAIN."""
    scores: NDArray[np.float32]
    """log mass, log n + mean log w, s, log of what may be hidden or a bound of it, mass, what may be hidden,
    and 1 where the group stays closed, all relative to e^log_z, (7, LANES), see LOG_MASS."""
    spare: NDArray[np.float32]
    """(3, LANES)."""


@compiled_to_allocate
def block_of(groups: Groups) -> Block:
    """What any block of these groups can be scored in."""
    t_length, leading = groups.cross.shape[1:3]
    return Block(
        r=aligned(leading * LANES).reshape(leading, LANES),
        slope=aligned(t_length * leading * LANES).reshape(t_length, leading, LANES),
        of_mean=aligned(t_length * LANES).reshape(t_length, LANES),
        rest=aligned(t_length * LANES).reshape(t_length, LANES),
        constants=aligned(7 * LANES).reshape(7, LANES),
        sums=aligned(3 * LANES).reshape(3, LANES),
        scores=aligned(7 * LANES).reshape(7, LANES),
        spare=aligned(3 * LANES).reshape(3, LANES),
    )


@compiled
def load(block: Block, groups: Groups, number: int, sigma2: np.float32) -> None:
    """Prepare to score a block of groups."""
    log_n, s_max, of_jensen, of_gaussian, trace, square = (
        block.constants[LOG_N],
        block.constants[S_MAX],
        block.constants[OF_JENSEN],
        block.constants[OF_GAUSSIAN],
        block.constants[TRACE],
        block.constants[HALF_SQUARE],
    )
    product, exponent = block.spare[0], block.spare[1]
    for k in range(LANES):
        trace[k] = square[k] = exponent[k] = np.float32(0.0)
        product[k] = np.float32(1.0)
    inverse = np.float32(1.0) / sigma2
    for i in range(groups.leading.shape[1]):
        variances, r = groups.leading[number, i, 1], block.r[i]
        for k in range(LANES):
            variance = variances[k]
            ratio = np.float32(1.0) + variance * inverse
            r[k] = inverse / ratio
            trace[k] += variance * inverse
            square[k] += np.float32(0.5) * variance * inverse * variance * inverse
            # The product of all ratios, as a number below 2 and a power of 2, needs one logarithm.
            bits = np.float32(product[k] * ratio).view(np.int32)
            exponent[k] += np.float32((bits >> np.int32(23)) - np.int32(127))
            product[k] = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    others = np.float32(groups.others.shape[1])
    for k in range(LANES):
        n = groups.n[number, k]
        log_n[k] = ABSENT if n == 0 else np.float32(math.log(n))
        s_max[k] = max(_TINY, np.float32(math.sqrt(2.0 * max(log_n[k], np.float32(0.0)))))
        ratio = groups.variance[number, k] * inverse
        trace[k] += others * ratio
        square[k] += np.float32(0.5) * others * ratio * ratio
        of_jensen[k] = log_n[k] - np.float32(0.5) * trace[k]
        of_gaussian[k] = log_n[k] - np.float32(0.5) * (
            log(product[k]) + exponent[k] / LOG2_E + others * log(np.float32(1.0) + ratio)
        )
        block.constants[OTHERS, k] = inverse / (np.float32(1.0) + ratio)


@compiled
def load_targets(block: Block, groups: Groups, number: int) -> None:
    """Prepare to add the targets of the block."""
    t_length, leading = groups.cross.shape[1:3]
    for c in range(t_length):
        of_mean, explained = block.of_mean[c], block.spare[0]
        for k in range(LANES):
            of_mean[k] = explained[k] = np.float32(0.0)
        for i in range(leading):
            cross, r, mean = groups.cross[number, c, i], block.r[i], groups.leading[number, i, 0]
            slope = block.slope[c, i]
            for k in range(LANES):
                b = cross[k] * r[k]
                slope[k] = b
                of_mean[k] += b * mean[k]
                explained[k] += b * cross[k]
        for k in range(LANES):
            block.rest[c, k] = max(np.float32(0.0), groups.target_variance[number, c, k] - explained[k])


@compiled
def _white(patches: Patches, q: int, groups: Groups, number: int, block: Block) -> None:
    """Fill the sums of a query with white noise."""
    p, leading, others = patches.u.shape[1], groups.leading.shape[1], groups.others.shape[1]
    sums, spare, inverse = block.sums, block.spare, np.float32(1.0) / patches.sigma2
    add_distances(patches.u, q * p, groups.leading, number * leading * 2 * LANES, block.r, leading, sums)
    add_squares(patches.u, q * p + leading, groups.others, number * others * LANES, others, spare, 0)
    for k in range(LANES):
        square = spare[0, k]
        sums[PLAIN, k] = (sums[PLAIN, k] + square) * inverse
        sums[S2, k] = (sums[S2, k] + groups.variance[number, k] * square) * inverse * inverse
        sums[GAUSSIAN, k] += block.constants[OTHERS, k] * square


@compiled
def _weighted(patches: Patches, q: int, groups: Groups, number: int, block: Block) -> None:
    """Fill the sums of a query with a precision for each pixel, and the constants, which depend on it.

    Λ and the covariance C of a group have no axes in common. s² takes C as the mean of its variances, the
    Gaussian q² / (q + s²) for (u − μ)ᵀ (Λ⁻¹ + C)⁻¹ (u − μ) and Σ log of as many equal variances as C has
    large ones.
    """
    p = groups.leading.shape[1]
    add_weighted(patches.u, patches.precision, q * p, groups.leading, number * p * 2 * LANES, p, block.sums)
    sums, constants = block.sums, block.constants
    for k in range(LANES):
        plain, s2, trace = sums[PLAIN, k], sums[S2, k] * groups.isotropic[number, 0, k], sums[GAUSSIAN, k]
        varied = groups.isotropic[number, 1, k]
        sums[S2, k] = s2
        sums[GAUSSIAN, k] = plain * plain / (plain + s2 + _NO_KEY)
        constants[OF_JENSEN, k] = constants[LOG_N, k] - np.float32(0.5) * trace
        constants[OF_GAUSSIAN, k] = constants[LOG_N, k] - np.float32(0.5) * varied * log(
            np.float32(1.0) + trace / varied
        )
        constants[TRACE, k] = trace
        constants[HALF_SQUARE, k] = np.float32(0.5) * trace * trace / varied


@compiled
def score(patches: Patches, q: int, z: np.float32, groups: Groups, number: int, block: Block) -> None:
    """Fill log mass and log n + mean log w, both less z, s, and a bound of the log of what may be hidden."""
    if patches.precision.shape[1] > 0:
        _weighted(patches, q, groups, number, block)
    else:
        _white(patches, q, groups, number, block)
    reach = np.float32(math.sqrt(max(np.float32(0.0), np.float32(-2.0) * z)))
    sums, constants, scores = block.sums, block.constants, block.scores
    for k in range(LANES):
        s_max = constants[S_MAX, k]
        s = np.float32(np.sqrt(sums[S2, k]))
        held = min(s, s_max)
        jensen = constants[OF_JENSEN, k] - np.float32(0.5) * sums[PLAIN, k] - z
        gaussian = constants[OF_GAUSSIAN, k] - np.float32(0.5) * sums[GAUSSIAN, k] - z
        log_mass = min(jensen + held * (s - np.float32(0.5) * held), gaussian)
        square = sums[PLAIN, k] + constants[TRACE, k] + _NO_KEY
        variance = _SPREAD * (sums[S2, k] + constants[HALF_SQUARE, k]) / square
        distance = np.float32(np.sqrt(max(np.float32(0.0), square - variance)))
        x = max(np.float32(0.0), distance - reach)
        x2 = x * x / (variance + _NO_KEY)
        nearest = np.float32(0.5) * constants[LOG_N, k] - x2 / (np.float32(4.0) + _TAIL * x2) - _OFFSET
        scores[LOG_MASS, k] = min(log_mass, nearest) if s > s_max else log_mass
        scores[JENSEN, k] = jensen
        scores[S, k] = s
        scores[LOG_HIDDEN, k] = nearest if s > s_max else log_mass + s


@compiled
def hide(block: Block) -> None:
    """Fill the mass of closed groups, and what it may be off by, see `hybrid`, from the logarithms."""
    constants, scores = block.constants, block.scores
    for k in range(LANES):
        s, s_max = scores[S, k], constants[S_MAX, k]
        mass = exp2(LOG2_E * min(scores[LOG_MASS, k], _HEAVIEST))
        gain = exp2(LOG2_E * min(s, s_max)) - np.float32(1.0)
        nearest = exp2(LOG2_E * min(scores[LOG_HIDDEN, k], _HEAVIEST))
        scores[MASS, k] = mass
        scores[KEPT, k] = np.float32(1.0)
        scores[HIDDEN, k] = nearest if s > s_max else mass * gain


@compiled
def _shift(patches: Patches, q: int, groups: Groups, number: int, c: int, block: Block) -> None:
    """Fill the shift of channel c of the mean target, and the variance that it leaves unexplained."""
    p, leading = patches.u.shape[1], groups.leading.shape[1]
    sums, spare, slope = block.sums, block.spare, c * leading * LANES
    if patches.precision.shape[1] > 0:
        add_weighted_products(
            patches.u, patches.precision, q * p, groups.leading, number * p * 2 * LANES,
            groups.cross, number * len(block.rest) * p * LANES + slope, p, spare, 0,
        )  # fmt: skip
        for k in range(LANES):
            response, kept = spare[0, k], sums[PLAIN, k] / (sums[PLAIN, k] + sums[S2, k] + _NO_KEY)
            explained = response * response / (sums[S2, k] + _NO_KEY) * (np.float32(1.0) - kept)
            spare[0, k] = kept * response
            spare[1, k] = max(np.float32(0.0), groups.target_variance[number, c, k] - explained)
    else:
        add_products(patches.u, q * p, block.slope, slope, leading, spare, 0)
        for k in range(LANES):
            spare[0, k] -= block.of_mean[c, k]
            spare[1, k] = block.rest[c, k]


@compiled
def _add_patches(
    closed_v: NDArray[np.float64], q: int, patches: Patches, groups: Groups, number: int, block: Block
) -> None:
    """Add the mean patches  μ + min(1, s_max / s) D (D + σ² I)⁻¹ (u − μ)  of groups, from their masses."""
    p, leading, others = patches.u.shape[1], groups.leading.shape[1], groups.others.shape[1]
    constants, scores, spare = block.constants, block.scores, block.spare
    moving = np.float32(0.0)
    for k in range(LANES):
        mass, s_max = scores[MASS, k], constants[S_MAX, k]
        moved = mass * s_max / max(scores[S, k], s_max)
        spare[0, k] = moved
        moved *= groups.variance[number, k] * constants[OTHERS, k]
        spare[1, k] = mass - moved
        moving += moved
    row = number * leading * 2 * LANES
    for i in range(leading):
        closed_v[q, i] += posterior_means(
            patches.u, q * p + i, groups.leading, row + i * 2 * LANES, block.r, i * LANES,
            scores, MASS * LANES, spare, 0,
        )  # fmt: skip
    row = number * others * LANES
    for i in range(others):
        still = dot(spare, LANES, groups.others, row + i * LANES)
        closed_v[q, leading + i] += still + moving * patches.u[q, leading + i]


@compiled
def add_closed(
    results: Results,
    q: int,
    patches: Patches,
    groups: Groups,
    number: int,
    block: Block,
    want: Wanted,
) -> None:
    """Add the groups that stay closed to the sums of a query, see `Results`."""
    t_length, closed = groups.cross.shape[1], results.closed
    constants, scores, spare = block.constants, block.scores, block.spare
    for k in range(LANES):
        scores[MASS, k] *= scores[KEPT, k]
    if want.patch:
        _add_patches(results.closed_v, q, patches, groups, number, block)
    mass = MASS * LANES
    closed[q, 0] += dot(scores, mass, scores, KEPT * LANES)
    if want.ess:  # Σ w² is the mass at noise σ/√2; of n weights it is at most the square of their sum
        for k in range(LANES):
            s_max, s = constants[S_MAX, k], scores[S, k]
            once, twice = min(s, s_max), min(np.float32(2.0) * s, s_max)
            gain = twice * (np.float32(2.0) * s - np.float32(0.5) * twice) - np.float32(2.0) * once * (
                s - np.float32(0.5) * once
            )
            share = exp2(min(np.float32(0.0), LOG2_E * (gain - constants[LOG_N, k])))
            spare[0, k] = scores[MASS, k] * share
        closed[q, 1 + 2 * t_length] += dot(spare, 0, scores, mass)
    doubt = HIDDEN * LANES
    if want.error:
        for k in range(LANES):
            scores[HIDDEN, k] *= scores[HIDDEN, k] * scores[KEPT, k]
        closed[q, 2 + 2 * t_length] += dot(scores, doubt, scores, KEPT * LANES)
    for c in range(t_length):
        _shift(patches, q, groups, number, c, block)
        for k in range(LANES):
            shrink = constants[S_MAX, k] / max(scores[S, k], constants[S_MAX, k])
            t = groups.target[number, c, k] + shrink * spare[0, k]
            spare[0, k] = t
            spare[1, k] += t * t
        closed[q, 1 + c] += dot(scores, mass, spare, 0)
        if want.variance:
            closed[q, 1 + t_length + c] += dot(scores, mass, spare, LANES)
        if want.error:
            closed[q, 3 + 2 * t_length + c] += dot(scores, doubt, spare, 0)
            closed[q, 3 + 3 * t_length + c] += dot(scores, doubt, spare, LANES)
