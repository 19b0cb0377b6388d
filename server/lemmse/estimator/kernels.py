"""Compiled loops of the hybrid posterior: groups of keys seen by their moments, and the keys of those opened.

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
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.groups import Groups, Tree
from lemmse.estimator.lanes import (
    LANES,
    add_distances,
    add_products,
    add_squares,
    add_weighted,
    add_weighted_products,
    dot,
)

__all__ = ["KeyArrays", "Near", "Patches", "Results", "Start", "Wanted", "descend", "probe"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LOG2_E = np.float32(math.log2(math.e))
_NOTHING = np.float32(-16.0)
"""A closed group of less than e^−16 of the weight is passed over."""
_FLOOR = np.float32(-60.0)
"""Exponents of 2 are clamped to this, so that neither weights nor their squares are denormals."""
_HEAVIEST = np.float32(40.0)
"""Groups that a budget leaves closed may seem to outweigh all that is known, but squares must stay finite."""
_NEGLIGIBLE = -30.0
"""Keys that weigh less than e^−30 of the heaviest do not show."""
_LARGEST = 600.0
"""Logarithm of the largest weight worth telling from infinity."""
_ABSENT = np.float32(-1e30)
"""Logarithm of the weight of a lane that holds nothing."""
_TINY = np.float32(1e-6)
"""Instead of the s_max of a single key, to be divided by."""
_NO_KEY = np.float32(1e-20)
"""Added to a variance that may be 0."""
_SPREAD = np.float32(1.3)
_TAIL = np.float32(4 / 80)
_OFFSET = np.float32(2.0)
"""Distances in a group of image patches vary more than its moments say, by these: see `hybrid`."""
_ROUNDING = np.float32(1e-5)
"""Relative error that a squared distance of rotated float32 coordinates stays below."""
_FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn", "nnan"}
"""Sums may be taken in any order, which vector instructions need; infinities keep their meaning."""


class Patches(NamedTuple):
    """Q query patches."""

    u: NDArray[np.float32]
    """Along the axes of the groups, filled up with zeros, (Q, P or more)."""
    pixels: NDArray[np.float32]
    """Along the pixels, filled up with zeros, (Q, P or more)."""
    extent: NDArray[np.float32]
    """Leading coordinates, and the norm of the others, (Q, E)."""
    sigma2: np.float32
    """σ² of white noise; 1 where each pixel has a precision."""
    precision: NDArray[np.float32]
    """Precisions λ of the pixels, filled up with zeros, (Q, P or more); (Q, 0) for white noise."""


class KeyArrays(NamedTuple):
    """M keys in L leaves, as `Keys` lays them out."""

    features: NDArray[np.float32]
    """v − c and −½‖v − c‖² of one tile after another, P + 1 rows each."""
    moments: NDArray[np.float32]
    """(1 + 2T, M + LANES)."""
    centres: NDArray[np.float32]
    """Filled up as the queries, (tiles, P or more)."""
    edges: NDArray[np.int64]
    """First key of each tile, and the number of keys."""
    offsets: NDArray[np.int64]
    """Where the features of each tile begin."""
    strides: NDArray[np.int64]
    """From one row of a tile's features to the next."""
    leaf_keys: NDArray[np.int64]
    """First key of each leaf, and the number of keys."""
    leaf_tile: NDArray[np.int64]
    """Tile of the first key of each leaf."""
    longest: int
    """Keys of the largest leaf."""


class Near(NamedTuple):
    """Where to look first."""

    cells: int
    """This many cells of the largest estimated mass."""
    leaves: int
    """This many leaves of them."""
    keys: int
    """No more than this many keys of these."""
    trust: np.float32
    """What the spread of a cell may add to its log mass before anything was opened: more is guesswork."""


class Start(NamedTuple):
    """What is known before anything is opened, (Q,) each."""

    log_z: NDArray[np.float64]
    """About log Σ w, rather too little than too much."""
    cell: NDArray[np.int64]
    """Cell of the heaviest key known; −1 if there is none."""
    leaf: NDArray[np.int64]
    """Its leaf."""
    touched: NDArray[np.int64]
    """Keys that it took."""


class Wanted(NamedTuple):
    """Which sums beside those of the mean."""

    variance: bool
    ess: bool
    error: bool
    bounds: bool


class Results(NamedTuple):
    """Sums of one part of the groups."""

    closed: NDArray[np.float64]
    """Of closed groups, relative to e^log_z: Σ w (1, t, t²), Σ w², Σ a² (1, t, t²), (Q, 3 + 4T)."""
    bounds: NDArray[np.float64]
    """Of closed groups, relative to e^log_z: least Σ w, least and greatest Σ w (t − h), (Q, 1 + 2T)."""
    opened_max: NDArray[np.float64]
    """What the sums over keys are relative to, as a logarithm, (Q,)."""
    opened: NDArray[np.float64]
    """Of keys: Σ w (1, t, t²), Σ w², (Q, 2 + 2T)."""
    touched: NDArray[np.int64]
    """Keys that were summed, (Q,)."""


class _Scratch(NamedTuple):
    """What the keys of a leaf are scored in."""

    centred: NDArray[np.float32]
    """Query less the centre of a tile, and 1."""
    scores: NDArray[np.float32]
    """log2 w of runs of LANES keys."""
    place: NDArray[np.int64]
    """First key of each run, and −1."""


class _Block(NamedTuple):
    """What LANES groups side by side are scored in."""

    r: NDArray[np.float32]
    """1/(σ² + D), (P, LANES)."""
    slope: NDArray[np.float32]
    """Cov(t, v) r, (T, P, LANES)."""
    of_mean: NDArray[np.float32]
    """Cov(t, v) r·μ, (T, LANES)."""
    rest: NDArray[np.float32]
    """Variance of the target that this leaves unexplained, (T, LANES)."""
    constants: NDArray[np.float32]
    """log n, s_max, log n − ½ Σ D/σ², log n − ½ Σ log(1 + D/σ²), Σ D/σ², ½ Σ D²/σ⁴, (6, LANES)."""
    sums: NDArray[np.float32]
    """Σ d²/σ², s² = Σ D d²/σ⁴ and Σ r d² of d = u − μ for one query, (3, LANES)."""
    scores: NDArray[np.float32]
    """log mass, log n + mean log w, s, log hidden or a bound of it, mass, hidden, and 1 where the group stays
    closed, all relative to e^log_z, (7, LANES)."""
    spare: NDArray[np.float32]
    """(3, LANES)."""


def _compiled(function: _Function) -> _Function:
    compile_it = numba.njit(nogil=True, fastmath=_FASTMATH, error_model="numpy", cache=True)
    return cast(_Function, compile_it(function))


@_compiled
def _exp2(x: np.float32) -> np.float32:
    """2^x of x up to 126, and no less than 2^_FLOOR.

    2^f on [0, 1) is a polynomial (relative error 2·10⁻⁷), 2^i is put together from its bits: unlike a call of
    exp2, this becomes vector instructions.
    """
    x = max(x, _FLOOR)
    whole = np.floor(x)
    f = x - whole
    y = np.float32(1.8775767e-3)
    y = y * f + np.float32(8.9893397e-3)
    y = y * f + np.float32(5.5826318e-2)
    y = y * f + np.float32(2.4015361e-1)
    y = y * f + np.float32(6.9315308e-1)
    y = y * f + np.float32(0.99999994)
    power = (np.int32(whole) + np.int32(127)) << np.int32(23)
    result: np.float32 = y * np.int32(power).view(np.float32)
    return result


@_compiled
def _aligned(n: int) -> NDArray[np.float32]:
    """N zeros that start a line of the cache: loads across lines take twice as long."""
    space = np.zeros(n + 16, np.float32)
    first = -space.ctypes.data % 64 // 4
    return space[first : first + n]


@_compiled
def _block(groups: Groups) -> _Block:
    """What any block of these groups can be scored in."""
    t_length, p = groups.cross.shape[1:3]
    return _Block(
        r=_aligned(p * LANES).reshape(p, LANES),
        slope=_aligned(t_length * p * LANES).reshape(t_length, p, LANES),
        of_mean=_aligned(t_length * LANES).reshape(t_length, LANES),
        rest=_aligned(t_length * LANES).reshape(t_length, LANES),
        constants=_aligned(6 * LANES).reshape(6, LANES),
        sums=_aligned(3 * LANES).reshape(3, LANES),
        scores=_aligned(7 * LANES).reshape(7, LANES),
        spare=_aligned(3 * LANES).reshape(3, LANES),
    )


@_compiled
def _scratch(keys: KeyArrays, p: int) -> _Scratch:
    """What the keys of the largest leaf can be scored in; a leaf may reach over the edges of tiles."""
    runs = keys.longest // LANES + 3
    return _Scratch(
        _aligned(p + 2), _aligned(runs * LANES).reshape(runs, LANES), np.empty(runs + 1, np.int64)
    )


@_compiled
def _load(block: _Block, groups: Groups, number: int, sigma2: np.float32) -> None:
    """Prepare to score a block of groups."""
    log_n, s_max, of_jensen, of_gaussian, trace, square = (
        block.constants[0],
        block.constants[1],
        block.constants[2],
        block.constants[3],
        block.constants[4],
        block.constants[5],
    )
    product, exponent = block.spare[0], block.spare[1]
    for k in range(LANES):
        trace[k] = square[k] = exponent[k] = np.float32(0.0)
        product[k] = np.float32(1.0)
    inverse = np.float32(1.0) / sigma2
    for i in range(groups.spread.shape[1]):
        variances, r = groups.spread[number, i, 1], block.r[i]
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
    for k in range(LANES):
        n = groups.n[number, k]
        log_n[k] = _ABSENT if n == 0 else np.float32(math.log(n))
        s_max[k] = max(_TINY, np.float32(math.sqrt(2.0 * max(log_n[k], np.float32(0.0)))))
        of_jensen[k] = log_n[k] - np.float32(0.5) * trace[k]
        of_gaussian[k] = log_n[k] - np.float32(0.5) * (
            np.float32(math.log(product[k])) + exponent[k] / _LOG2_E
        )


@_compiled
def _load_targets(block: _Block, groups: Groups, number: int) -> None:
    """Prepare to add the targets of the block."""
    t_length, p = groups.cross.shape[1:3]
    for c in range(t_length):
        of_mean, explained = block.of_mean[c], block.spare[0]
        for k in range(LANES):
            of_mean[k] = explained[k] = np.float32(0.0)
        for i in range(p):
            cross, r, mean = groups.cross[number, c, i], block.r[i], groups.spread[number, i, 0]
            slope = block.slope[c, i]
            for k in range(LANES):
                b = cross[k] * r[k]
                slope[k] = b
                of_mean[k] += b * mean[k]
                explained[k] += b * cross[k]
        for k in range(LANES):
            block.rest[c, k] = max(np.float32(0.0), groups.target_variance[number, c, k] - explained[k])


@_compiled
def _log(x: np.float32) -> np.float32:
    """Natural logarithm of a normal number, to 5·10⁻⁷, relative where it is near 0.

    Unlike a call of log, this becomes vector instructions, see `_exp2`.
    """
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> np.int32(23)) - np.int32(127))
    f = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32) - np.float32(1.0)
    y = np.float32(-0.012206505)
    y = y * f + np.float32(0.062958579)
    y = y * f + np.float32(-0.15403794)
    y = y * f + np.float32(0.25474791)
    y = y * f + np.float32(-0.35277587)
    y = y * f + np.float32(0.47991371)
    y = y * f + np.float32(-0.72129472)
    y = y * f + np.float32(1.4426943)
    result: np.float32 = (exponent + y * f) / _LOG2_E
    return result


@_compiled
def _white(patches: Patches, q: int, groups: Groups, number: int, block: _Block) -> None:
    """Fill the sums of a query with white noise."""
    p = groups.spread.shape[1]
    add_distances(patches.u, q * p, groups.spread, number * p * 2 * LANES, block.r, p, block.sums)
    inverse = np.float32(1.0) / patches.sigma2
    for k in range(LANES):
        block.sums[0, k] *= inverse
        block.sums[1, k] *= inverse * inverse


@_compiled
def _weighted(patches: Patches, q: int, groups: Groups, number: int, block: _Block) -> None:
    """Fill the sums of a query with a precision for each pixel, and the constants, which depend on it.

    Λ and the covariance C of a group have no axes in common. s² takes C as the mean of its variances, the
    Gaussian q² / (q + s²) for (u − μ)ᵀ (Λ⁻¹ + C)⁻¹ (u − μ) and Σ log of as many equal variances as C has
    large ones.
    """
    p = groups.spread.shape[1]
    add_weighted(patches.u, patches.precision, q * p, groups.spread, number * p * 2 * LANES, p, block.sums)
    sums, constants = block.sums, block.constants
    for k in range(LANES):
        plain, s2, trace = sums[0, k], sums[1, k] * groups.isotropic[number, 0, k], sums[2, k]
        varied = groups.isotropic[number, 1, k]
        sums[1, k] = s2
        sums[2, k] = plain * plain / (plain + s2 + _NO_KEY)
        constants[2, k] = constants[0, k] - np.float32(0.5) * trace
        constants[3, k] = constants[0, k] - np.float32(0.5) * varied * _log(np.float32(1.0) + trace / varied)
        constants[4, k] = trace
        constants[5, k] = np.float32(0.5) * trace * trace / varied


@_compiled
def _score(patches: Patches, q: int, z: np.float32, groups: Groups, number: int, block: _Block) -> None:
    """Fill log mass and log n + mean log w, both less z, s, and a bound of the log of what may be hidden."""
    if patches.precision.shape[1] > 0:
        _weighted(patches, q, groups, number, block)
    else:
        _white(patches, q, groups, number, block)
    reach = np.float32(math.sqrt(max(np.float32(0.0), np.float32(-2.0) * z)))
    sums, constants, scores = block.sums, block.constants, block.scores
    for k in range(LANES):
        s_max = constants[1, k]
        s = np.float32(np.sqrt(sums[1, k]))
        held = min(s, s_max)
        jensen = constants[2, k] - np.float32(0.5) * sums[0, k] - z
        gaussian = constants[3, k] - np.float32(0.5) * sums[2, k] - z
        log_mass = min(jensen + held * (s - np.float32(0.5) * held), gaussian)
        square = sums[0, k] + constants[4, k] + _NO_KEY
        variance = _SPREAD * (sums[1, k] + constants[5, k]) / square
        distance = np.float32(np.sqrt(max(np.float32(0.0), square - variance)))
        x = max(np.float32(0.0), distance - reach)
        x2 = x * x / (variance + _NO_KEY)
        nearest = np.float32(0.5) * constants[0, k] - x2 / (np.float32(4.0) + _TAIL * x2) - _OFFSET
        scores[0, k] = min(log_mass, nearest) if s > s_max else log_mass
        scores[1, k] = jensen
        scores[2, k] = s
        scores[3, k] = nearest if s > s_max else log_mass + s


@_compiled
def _hide(block: _Block) -> None:
    """Fill the mass of closed groups, and what it may be off by, see `hybrid`, from the logarithms."""
    constants, scores = block.constants, block.scores
    for k in range(LANES):
        s, s_max = scores[2, k], constants[1, k]
        mass = _exp2(_LOG2_E * min(scores[0, k], _HEAVIEST))
        gain = _exp2(_LOG2_E * min(s, s_max)) - np.float32(1.0)
        nearest = _exp2(_LOG2_E * min(scores[3, k], _HEAVIEST))
        scores[4, k] = mass
        scores[6, k] = np.float32(1.0)
        scores[5, k] = nearest if s > s_max else mass * gain


@_compiled
def _log_most(
    extent: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    log_n: np.float32,
    sigma2: np.float32,
) -> np.float32:
    """Log of what the weights of a group can add up to at most: all keys at the least distance to its extent.

    The norms of the trailing coordinates of query and key differ by no more than the vectors do.
    """
    least, size = np.float32(0.0), np.float32(1.0)
    for i in range(extent.shape[0]):
        d = max(np.float32(0.0), max(low[i] - extent[i], extent[i] - high[i]))
        least += d * d
        size += extent[i] * extent[i]
    # What float32 may have lost in the coordinates.
    least = max(np.float32(0.0), least - _ROUNDING * (least + size))
    return log_n - np.float32(0.5) * least / sigma2


@_compiled
def _add_bounds(
    row: NDArray[np.float64],
    about: NDArray[np.float64],
    log_most: np.float32,
    log_least: np.float32,
    target_low: NDArray[np.float32],
    target_high: NDArray[np.float32],
) -> None:
    """Add to Σ w its least, and to Σ w (t − h) its least and greatest, for weights within their bounds."""
    t_length = about.shape[0]
    if log_most > _LARGEST:  # the group may outweigh all that is known
        row[1 : 1 + t_length] = -np.inf
        row[1 + t_length :] = np.inf
        return
    least = math.exp(np.float64(log_least))
    most = max(least, math.exp(np.float64(log_most)))
    row[0] += least
    for c in range(t_length):
        below, above = target_low[c] - about[c], target_high[c] - about[c]
        row[1 + c] += min(least * below, most * below)
        row[1 + t_length + c] += max(least * above, most * above)


@_compiled
def _shift(patches: Patches, q: int, groups: Groups, number: int, c: int, block: _Block) -> None:
    """Fill the shift of channel c of the mean target, and the variance that it leaves unexplained."""
    p, sums, spare = groups.spread.shape[1], block.sums, block.spare
    slope = c * p * LANES
    if patches.precision.shape[1] > 0:
        add_weighted_products(
            patches.u, patches.precision, q * p, groups.spread, number * p * 2 * LANES,
            groups.cross, number * len(block.rest) * p * LANES + slope, p, spare, 0,
        )  # fmt: skip
        for k in range(LANES):
            response, kept = spare[0, k], sums[0, k] / (sums[0, k] + sums[1, k] + _NO_KEY)
            explained = response * response / (sums[1, k] + _NO_KEY) * (np.float32(1.0) - kept)
            spare[0, k] = kept * response
            spare[1, k] = max(np.float32(0.0), groups.target_variance[number, c, k] - explained)
    else:
        add_products(patches.u, q * p, block.slope, slope, LANES, p, spare, 0)
        for k in range(LANES):
            spare[0, k] -= block.of_mean[c, k]
            spare[1, k] = block.rest[c, k]


@_compiled
def _add_closed(
    closed: NDArray[np.float64],
    q: int,
    patches: Patches,
    groups: Groups,
    number: int,
    block: _Block,
    want: Wanted,
) -> None:
    """Add the groups that stay closed to the sums of a query, see `Results`."""
    t_length, p = groups.cross.shape[1:3]
    constants, scores, spare = block.constants, block.scores, block.spare
    for k in range(LANES):
        scores[4, k] *= scores[6, k]
    mass = 4 * LANES
    closed[q, 0] += dot(scores, mass, scores, 6 * LANES)
    if want.ess:  # Σ w² is the mass at noise σ/√2; of n weights it is at most the square of their sum
        for k in range(LANES):
            s_max, s = constants[1, k], scores[2, k]
            once, twice = min(s, s_max), min(np.float32(2.0) * s, s_max)
            gain = twice * (np.float32(2.0) * s - np.float32(0.5) * twice) - np.float32(2.0) * once * (
                s - np.float32(0.5) * once
            )
            share = _exp2(min(np.float32(0.0), _LOG2_E * (gain - constants[0, k])))
            spare[0, k] = scores[4, k] * share
        closed[q, 1 + 2 * t_length] += dot(spare, 0, scores, mass)
    doubt = 5 * LANES
    if want.error:
        for k in range(LANES):
            scores[5, k] *= scores[5, k] * scores[6, k]
        closed[q, 2 + 2 * t_length] += dot(scores, doubt, scores, 6 * LANES)
    for c in range(t_length):
        _shift(patches, q, groups, number, c, block)
        for k in range(LANES):
            shrink = constants[1, k] / max(scores[2, k], constants[1, k])
            t = groups.target[number, c, k] + shrink * spare[0, k]
            spare[0, k] = t
            spare[1, k] += t * t
        closed[q, 1 + c] += dot(scores, mass, spare, 0)
        if want.variance:
            closed[q, 1 + t_length + c] += dot(scores, mass, spare, LANES)
        if want.error:
            closed[q, 3 + 2 * t_length + c] += dot(scores, doubt, spare, 0)
            closed[q, 3 + 3 * t_length + c] += dot(scores, doubt, spare, LANES)


@_compiled
def _visit(
    groups: Groups,
    number: int,
    queries: NDArray[np.int32],
    patches: Patches,
    start: Start,
    nearest: NDArray[np.int64],
    threshold: NDArray[np.float32],
    about: NDArray[np.float64],
    want: Wanted,
    block: _Block,
    opened: NDArray[np.int32],
    results: Results,
) -> NDArray[np.int64]:
    """List in `opened` the queries that open each group of a block, and add it to the sums of all others.

    Gives the lengths of the lists.
    """
    count = np.zeros(LANES, np.int64)
    scores = block.scores
    first, end = groups.first[number], groups.first[number] + groups.size[number]
    _load(block, groups, number, patches.sigma2)
    targets_loaded = False
    for q in queries:
        z = np.float32(start.log_z[q])
        _score(patches, q, z, groups, number, block)
        opening, seen = 0, 0
        for k in range(LANES):
            opening += 1 if scores[3, k] > threshold[q] else 0
            seen += 1 if scores[0, k] > _NOTHING else 0
        if want.error:
            for k in range(LANES):
                seen += 1 if scores[3, k] > _NOTHING else 0
        nearest_is_here = first <= nearest[q] < end
        if opening + seen == 0 and not nearest_is_here and not want.bounds:
            continue
        _hide(block)
        if opening > 0 or nearest_is_here or want.bounds:
            limit = np.float32(math.exp(min(threshold[q], np.float32(80.0))))
            for k in range(end - first):
                opens = scores[5, k] > limit or first + k == nearest[q]
                if want.bounds:
                    low, high = groups.low[first + k], groups.high[first + k]
                    most = _log_most(patches.extent[q], low, high, block.constants[0, k], patches.sigma2) - z
                    opens = opens or most > threshold[q]
                    if not opens:
                        low, high = groups.target_low[first + k], groups.target_high[first + k]
                        _add_bounds(results.bounds[q], about[q], most, scores[1, k], low, high)
                if opens:
                    scores[6, k] = np.float32(0.0)
                    opened[k, count[k]] = q
                    count[k] += 1
                    seen -= 1 if scores[0, k] > _NOTHING else 0
        if seen > 0:
            if not targets_loaded and patches.precision.shape[1] == 0:
                _load_targets(block, groups, number)
                targets_loaded = True
            _add_closed(results.closed, q, patches, groups, number, block, want)
    return count


@_compiled
def _key_scores(leaf: int, patches: Patches, q: int, keys: KeyArrays, scratch: _Scratch) -> np.float32:
    """Fill the scores log2 w of the keys of a leaf, LANES at a time; gives the largest."""
    scores, centred, weights = scratch.scores, scratch.centred, patches.precision.shape[1]
    scale = np.float32(-0.5) * _LOG2_E if weights > 0 else _LOG2_E / patches.sigma2
    first, stop, tile = keys.leaf_keys[leaf], keys.leaf_keys[leaf + 1], keys.leaf_tile[leaf]
    score_max = _ABSENT
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
                add_squares(
                    centred, patches.precision, q * weights, keys.features, row, stride, weights,
                    scores, run * LANES,
                )  # fmt: skip
            else:
                add_products(centred, 0, keys.features, row, stride, rows + rows % 2, scores, run * LANES)
            count = min(end - first, LANES)
            for k in range(LANES):
                score = scale * (scores[run, k] - square) if k < count else _ABSENT
                scores[run, k] = score
                score_max = max(score_max, score)
            scratch.place[run] = first
            first += count
            run += 1
        tile += 1
    scratch.place[run] = -1
    return score_max


@_compiled
def _add_keys(
    leaf: int,
    queries: NDArray[np.int32],
    patches: Patches,
    keys: KeyArrays,
    want: Wanted,
    scratch: _Scratch,
    results: Results,
) -> None:
    """Add the keys of a leaf to the sums of some queries."""
    t_length = (results.opened.shape[1] - 2) // 2
    rows = 1 + 2 * t_length
    needed = rows if want.variance else 1 + t_length
    count = keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
    scores, place, opened = scratch.scores, scratch.place, results.opened
    for q in queries:
        score_max = _key_scores(leaf, patches, q, keys, scratch)
        results.touched[q] += count
        log_max = np.float64(score_max) / np.float64(_LOG2_E)
        if log_max > results.opened_max[q]:
            shrink = math.exp(results.opened_max[q] - log_max)
            for c in range(rows):
                opened[q, c] *= shrink
            opened[q, rows] *= shrink * shrink
            results.opened_max[q] = log_max
        relative = log_max - results.opened_max[q]
        if relative < _NEGLIGIBLE:
            continue
        factor = math.exp(relative)
        run = 0
        while place[run] >= 0:
            for k in range(LANES):
                scores[run, k] = _exp2(scores[run, k] - score_max)
            for c in range(needed):
                of_key = c * keys.moments.shape[1] + place[run]
                opened[q, c] += factor * dot(scores, run * LANES, keys.moments, of_key)
            if want.ess:
                for k in range(LANES):
                    scores[run, k] *= scores[run, k]
                opened[q, rows] += factor * factor * dot(scores, run * LANES, keys.moments, place[run])
            run += 1


@_compiled
def descend(
    part: int,
    parts: int,
    patches: Patches,
    start: Start,
    threshold: NDArray[np.float32],
    tree: Tree,
    stratum: int,
    keys: KeyArrays,
    about: NDArray[np.float64],
    want: Wanted,
    results: Results,
) -> None:
    """Sum every parts-th block of cells for all queries, opening cells into leaves and leaves into keys.

    Where bounds are wanted, groups are opened for what they can hold at most, and what stays closed is
    bounded about the means h, (Q, T).
    """
    cells, leaves = tree.cells, tree.leaves
    count = len(patches.u)
    block = _block(cells)
    scratch = _scratch(keys, patches.pixels.shape[1])
    everyone = np.arange(count).astype(np.int32)
    inside = np.empty((LANES, count), np.int32)
    opened = np.empty((LANES, count), np.int32)
    for number in range(tree.strata_blocks[stratum] + part, tree.strata_blocks[stratum + 1], parts):
        in_cell = _visit(
            cells, number, everyone, patches, start, start.cell, threshold, about, want, block, inside,
            results,
        )  # fmt: skip
        for k in range(cells.size[number]):
            queries = inside[k, : in_cell[k]]
            if len(queries) == 0:
                continue
            cell = cells.first[number] + k
            for of_cell in range(tree.cell_blocks[cell], tree.cell_blocks[cell + 1]):
                in_leaf = _visit(
                    leaves, of_cell, queries, patches, start, start.leaf, threshold, about, want, block,
                    opened, results,
                )  # fmt: skip
                for j in range(leaves.size[of_cell]):
                    if in_leaf[j]:
                        of_leaf = opened[j, : in_leaf[j]]
                        leaf = leaves.first[of_cell] + j
                        _add_keys(leaf, of_leaf, patches, keys, want, scratch, results)


@_compiled
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


@_compiled
def probe(
    part: int,
    parts: int,
    patches: Patches,
    tree: Tree,
    stratum: int,
    keys: KeyArrays,
    near: Near,
    start: Start,
) -> None:
    """Fill what is known before anything is opened, of every parts-th run of queries.

    log_z is the log of the sum over the keys of the most promising leaves of the most promising cells, and
    over all cells by their moments as far as these can be trusted: h(s) counts up to `trust`.
    """
    cells, leaves = tree.cells, tree.leaves
    first_query, end_query = part * len(start.leaf) // parts, (part + 1) * len(start.leaf) // parts
    count, sigma2 = end_query - first_query, patches.sigma2
    block = _block(cells)
    scores, trusted = block.scores, _aligned(LANES)
    cell_mass = np.full((count, near.cells), _ABSENT)
    near_cell = np.full((count, near.cells), -1)
    largest = np.full(count, _ABSENT)
    total = np.zeros(count)
    for number in range(tree.strata_blocks[stratum], tree.strata_blocks[stratum + 1]):
        _load(block, cells, number, sigma2)
        for j in range(count):
            _score(patches, first_query + j, np.float32(0.0), cells, number, block)
            top, better = _ABSENT, 0
            for k in range(LANES):
                trusted[k] = min(scores[0, k], scores[1, k] + near.trust)
                top = max(top, trusted[k])
                better += 1 if scores[0, k] > cell_mass[j, near.cells - 1] else 0
            if better > 0:
                for k in range(cells.size[number]):
                    _insert(cell_mass, near_cell, j, scores[0, k], cells.first[number] + k)
            if top > largest[j]:
                total[j] *= math.exp(np.float64(largest[j]) - np.float64(top))
                largest[j] = top
            if top > largest[j] + _NOTHING:
                add = np.float32(0.0)
                for k in range(LANES):
                    add += _exp2(_LOG2_E * (trusted[k] - largest[j]))
                total[j] += add
    scratch = _scratch(keys, patches.pixels.shape[1])
    leaf_mass = np.full((count, near.leaves), _ABSENT)
    near_leaf = np.full((count, near.leaves), -1)
    flat = near_cell.ravel()
    order = np.argsort(flat)  # one cell after the other, each with all queries near it
    begin = 0
    while begin < len(order):
        cell, end = flat[order[begin]], begin + 1
        while end < len(order) and flat[order[end]] == cell:
            end += 1
        for number in range(tree.cell_blocks[cell], tree.cell_blocks[cell + 1] if cell >= 0 else 0):
            _load(block, leaves, number, sigma2)
            for place in order[begin:end]:
                j = place // near.cells
                _score(patches, first_query + j, np.float32(0.0), leaves, number, block)
                for k in range(leaves.size[number]):
                    _insert(leaf_mass, near_leaf, j, scores[0, k], leaves.first[number] + k)
        begin = end
    for j in range(count):
        q = first_query + j
        reference = np.float64(largest[j])
        heaviest = -np.inf
        for nearest in near_leaf[j]:
            leaf = int(nearest)
            if leaf < 0:
                continue
            n = keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
            if start.touched[q] + n > near.keys:
                continue
            start.touched[q] += n
            score_max = _key_scores(leaf, patches, q, keys, scratch)
            w = np.float32(0.0)
            run = 0
            while scratch.place[run] >= 0:
                for k in range(LANES):
                    w += _exp2(scratch.scores[run, k] - score_max)
                run += 1
            log_max = np.float64(score_max) / np.float64(_LOG2_E)
            if log_max > heaviest:
                heaviest = log_max
                start.leaf[q] = leaf
            if log_max > reference:
                total[j] = total[j] * math.exp(reference - log_max) + w
                reference = log_max
            else:
                total[j] += w * math.exp(log_max - reference)
        if start.leaf[q] >= 0:
            start.log_z[q] = np.float32(reference + math.log(total[j]))  # as float32 sees it, below
            start.cell[q] = np.searchsorted(tree.cell_leaves, start.leaf[q], side="right") - 1
        else:  # moments are all there is
            start.log_z[q] = np.float32(max(np.float64(cell_mass[j, 0]), reference + math.log(total[j])))
