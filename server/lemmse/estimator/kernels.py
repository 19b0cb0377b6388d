"""Compiled loops of the hybrid posterior: groups of keys seen by their moments, and the keys of those opened.

For a group of n keys with mean μ, variances D, mean target t̄ and covariance Cov(t, v), and a query u,

    q = Σ_i (u_i − μ_i)² / σ²      s² = Σ_i D_i (u_i − μ_i)² / σ⁴      s_max = √(2 log n)
    log mass = log n − ½ max(q + Σ_i D_i / σ² − 2 h(s),  Σ_i (u_i − μ_i)² / (σ² + D_i) + log(1 + D_i / σ²))
    h(s) = ½ s²  up to s_max, and  s s_max − ½ s_max²  beyond
    mean = t̄ + min(1, s_max / s) Cov(t, v) (D + σ² I)⁻¹ (u − μ)

the first branch being what n keys can hold at most, the second the Gaussian. All logarithms are natural.

Every function lets go of the interpreter's lock and writes to rows of its own, so that several run at once.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.groups import Groups

__all__ = ["CellScores", "KeyArrays", "Patches", "Results", "Start", "descend", "probe", "score_cells"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LOG2_E = np.float32(math.log2(math.e))
_NOTHING = np.float32(-16.0)
"""A closed group of less than e^−16 of the weight is passed over."""
_FLOOR = np.float32(-100.0)
"""Exponents of 2 are clamped to this, so that weights are no denormals."""
_NEGLIGIBLE = -30.0
"""Keys that weigh less than e^−30 of the heaviest do not show."""
_TINY = 1e-30
"""Keeps the logarithm of nothing finite."""
_LARGEST = 600.0
"""Logarithm of the largest weight worth telling from infinity."""
_HEAVIEST = 300.0
"""Groups that a budget leaves closed may seem to outweigh all that is known, but squares must stay finite."""
_ROUNDING = np.float32(1e-5)
"""Relative error that a squared distance of rotated float32 coordinates stays below."""
_FASTMATH = {"contract", "reassoc", "nsz", "arcp", "afn"}
"""Sums may be taken in any order, which vector instructions need; infinities keep their meaning."""


class Patches(NamedTuple):
    """Q query patches with white noise."""

    rotated: NDArray[np.float32]
    """Along the principal axes, (Q, P or more)."""
    scaled: NDArray[np.float32]
    """u log2 e / σ², along the pixels, (Q, P)."""
    extent: NDArray[np.float32]
    """Leading coordinates, and the norm of the others, (Q, E)."""
    sigma2: np.float32
    """σ²."""


class CellScores(NamedTuple):
    """What the moments of G cells say to Q queries, float32."""

    log_mass: NDArray[np.float32]
    """Log of the estimated sum of weights, (G, Q)."""
    jensen: NDArray[np.float32]
    """The bound log n + mean log w, which lies below it, (G, Q)."""
    s: NDArray[np.float32]
    """Standard deviation of log w, (G, Q)."""
    shift: NDArray[np.float32]
    """Cov(t, v) (D + σ² I)⁻¹ (u − μ), (G, T, Q)."""
    explained: NDArray[np.float32]
    """Variance of the target that this explains, (G, T)."""


class KeyArrays(NamedTuple):
    """M keys in L leaves, as `Keys` lays them out."""

    features: NDArray[np.float32]
    """(M, P + 1 or more)."""
    moments: NDArray[np.float32]
    """(1 + 2T, M)."""
    centres: NDArray[np.float32]
    """(tiles, P)."""
    edges: NDArray[np.int64]
    """First key of each tile, and the number of keys."""
    leaf_keys: NDArray[np.int64]
    """First key of each leaf, and the number of keys."""
    leaf_tile: NDArray[np.int64]
    """Tile of the first key of each leaf."""
    longest: int
    """Keys of the largest leaf."""


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


def _compiled(function: _Function) -> _Function:
    compile_it = numba.njit(nogil=True, fastmath=_FASTMATH, error_model="numpy", cache=True)
    return cast(_Function, compile_it(function))


@_compiled
def _weights(scores: NDArray[np.float32], n: int, score_max: np.float32) -> np.float32:
    """Turn n scores, base 2, into weights 2^(score − score_max), in place; gives their sum.

    2^f on [0, 1) is a polynomial (relative error 2·10⁻⁷), 2^i is put together from its bits: unlike a call of
    exp2, this becomes vector instructions.
    """
    total = np.float32(0.0)
    for i in range(n):
        x = max(scores[i] - score_max, _FLOOR)
        whole = np.floor(x)
        f = x - whole
        y = np.float32(1.8775767e-3)
        y = y * f + np.float32(8.9893397e-3)
        y = y * f + np.float32(5.5826318e-2)
        y = y * f + np.float32(2.4015361e-1)
        y = y * f + np.float32(6.9315308e-1)
        y = y * f + np.float32(0.99999994)
        power = (np.int32(whole) + np.int32(127)) << np.int32(23)
        w = y * np.int32(power).view(np.float32)
        scores[i] = w
        total += w
    return total


@_compiled
def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    total = np.float32(0.0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@_compiled
def _prepare(
    variance: NDArray[np.float32], sigma2: np.float32, r: NDArray[np.float32]
) -> tuple[np.float32, np.float32]:
    """Fill r = 1/(σ² + D); gives ½ Σ D/σ² and ½ Σ log(1 + D/σ²)."""
    trace, log_det, product = 0.0, 0.0, 1.0
    for i in range(variance.shape[0]):
        r[i] = np.float32(1.0) / (sigma2 + variance[i])
        ratio = np.float64(variance[i]) / sigma2
        trace += ratio
        product *= 1.0 + ratio
        if i % 16 == 15:  # one logarithm for some factors; 16 of them stay far below the largest float64
            log_det += math.log(product)
            product = 1.0
    return np.float32(0.5 * trace), np.float32(0.5 * (log_det + math.log(product)))


@_compiled
def _far(
    u: NDArray[np.float32], mean: NDArray[np.float32], variance: NDArray[np.float32], r: NDArray[np.float32]
) -> tuple[np.float32, np.float32, np.float32]:
    """Σ d², Σ D d² and Σ r d² of d = u − μ."""
    plain, spread, gaussian = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for i in range(u.shape[0]):
        d = u[i] - mean[i]
        d2 = d * d
        plain += d2
        spread += d2 * variance[i]
        gaussian += d2 * r[i]
    return plain, spread, gaussian


@_compiled
def _held(s: np.float32, s_max: np.float32) -> np.float32:
    """h(s): what the spread of n logits adds to the log of their sum."""
    if s <= s_max:
        return np.float32(0.5) * s * s
    return s * s_max - np.float32(0.5) * s_max * s_max


@_compiled
def _hidden(
    log_n: np.float32, s_max: np.float32, jensen: np.float32, log_mass: np.float32, s: np.float32
) -> np.float32:
    """Log of what a closed group may be off by, see `hybrid`; all relative to Σ w, as the result."""
    if s <= s_max:
        if log_mass + s <= _NOTHING:  # log(eˢ − 1) < s
            return _NOTHING
        return log_mass + np.float32(math.log(math.expm1(s) + _TINY))
    x = max(np.float32(0.0), log_n - jensen) / s
    return np.float32(0.5) * log_n - np.float32(0.25) * x * x


@_compiled
def score_cells(part: int, parts: int, patches: Patches, cells: Groups, scores: CellScores) -> None:
    """Fill the scores of every parts-th cell, but for the shift."""
    u, sigma2 = patches.rotated, patches.sigma2
    r = np.empty(u.shape[1], np.float32)
    half, inverse = np.float32(0.5) / sigma2, np.float32(1.0) / sigma2
    for g in range(part, len(cells.n), parts):
        trace, log_det = _prepare(cells.variance[g], sigma2, r)
        log_n = np.float32(math.log(cells.n[g]))
        s_max = np.float32(math.sqrt(2.0 * log_n))
        mean, variance = cells.mean[g], cells.variance[g]
        for q in range(len(u)):
            plain, spread, gaussian = _far(u[q], mean, variance, r)
            s = np.float32(math.sqrt(spread)) * inverse
            jensen = log_n - half * plain - trace
            scores.jensen[g, q] = jensen
            scores.s[g, q] = s
            scores.log_mass[g, q] = min(
                jensen + _held(s, s_max), log_n - np.float32(0.5) * gaussian - log_det
            )


@_compiled
def _insert(values: NDArray[np.float32], numbers: NDArray[np.int64], value: np.float32, number: int) -> None:
    """Put a number among those of the largest values, in descending order."""
    last = len(values) - 1
    if value <= values[last]:
        return
    while last > 0 and values[last - 1] < value:
        values[last], numbers[last] = values[last - 1], numbers[last - 1]
        last -= 1
    values[last], numbers[last] = value, number


@_compiled
def _key_scores(
    leaf: int,
    scaled: NDArray[np.float32],
    scale: np.float32,
    keys: KeyArrays,
    shifted: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> np.float32:
    """Fill the scores log2 w of the keys of a leaf; gives the largest."""
    score_max = np.float32(-np.inf)
    p = keys.centres.shape[1]
    start, stop, tile = keys.leaf_keys[leaf], keys.leaf_keys[leaf + 1], keys.leaf_tile[leaf]
    first = start
    while first < stop:
        centre = keys.centres[tile]
        square = np.float32(0.0)
        for i in range(p):
            x = scaled[i] - scale * centre[i]
            shifted[i] = x
            square += x * x
        shifted[p] = scale
        of_query = square / (np.float32(-2.0) * scale)
        end = min(stop, keys.edges[tile + 1])
        for k in range(first, end):
            score = _dot(shifted, keys.features[k]) + of_query
            scores[k - start] = score
            score_max = max(score_max, score)
        first = end
        tile += 1
    return score_max


@_compiled
def probe(
    part: int,
    parts: int,
    patches: Patches,
    cells: CellScores,
    cell_leaves: NDArray[np.int64],
    leaves: Groups,
    keys: KeyArrays,
    near_cells: int,
    near_leaves: int,
    trust: np.float32,
    limit: int,
    start: Start,
) -> None:
    """Fill what is known before anything is opened, of every parts-th run of queries.

    log_z is the log of the sum over the keys of the most promising leaves of the most promising cells, no
    more than `limit` keys, and over all cells by their moments as far as these can be trusted: h(s) counts
    up to `trust`.
    """
    u, sigma2 = patches.rotated, patches.sigma2
    first_query, end_query = part * len(u) // parts, (part + 1) * len(u) // parts
    count = end_query - first_query
    cell_mass = np.full((count, near_cells), np.float32(-np.inf))
    near_cell = np.full((count, near_cells), -1)
    largest = np.full(count, np.float32(-np.inf))
    total = np.zeros(count)
    for g in range(len(cells.log_mass)):
        for k in range(count):
            log_mass = cells.log_mass[g, first_query + k]
            _insert(cell_mass[k], near_cell[k], log_mass, g)
            largest[k] = max(largest[k], min(log_mass, cells.jensen[g, first_query + k] + trust))
    for g in range(len(cells.log_mass)):
        for k in range(count):
            q = first_query + k
            x = min(cells.log_mass[g, q], cells.jensen[g, q] + trust) - largest[k]
            if x > _NOTHING:
                total[k] += math.exp(x)
    scale = _LOG2_E / sigma2
    half = np.float32(0.5) / sigma2
    shifted = np.zeros(keys.features.shape[1], np.float32)
    scores = np.empty(limit, np.float32)
    leaf_mass = np.empty(near_leaves, np.float32)
    near_leaf = np.empty(near_leaves, np.int64)
    for k in range(count):
        q = first_query + k
        reference = np.float64(largest[k])
        leaf_mass[:] = -np.inf
        near_leaf[:] = -1
        for g in near_cell[k]:
            if g >= 0:
                for leaf in range(cell_leaves[g], cell_leaves[g + 1]):
                    plain, spread = np.float32(0.0), np.float32(0.0)
                    for i in range(u.shape[1]):
                        d = u[q, i] - leaves.mean[leaf, i]
                        plain += d * d + leaves.variance[leaf, i]
                        spread += d * d * leaves.variance[leaf, i]
                    log_n = np.float32(math.log(leaves.n[leaf]))
                    s_max = np.float32(math.sqrt(2.0 * log_n))
                    s = np.float32(math.sqrt(spread)) / sigma2
                    _insert(leaf_mass, near_leaf, log_n - half * plain + _held(s, s_max), leaf)
        heaviest = -np.inf
        for nearest in near_leaf:
            leaf = int(nearest)
            if leaf >= 0:
                n = keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
                if start.touched[q] + n <= limit:
                    score_max = _key_scores(leaf, patches.scaled[q], scale, keys, shifted, scores)
                    w = np.float64(_weights(scores, n, score_max))
                    log_max = np.float64(score_max) / _LOG2_E
                    start.touched[q] += n
                    if log_max > heaviest:
                        heaviest = log_max
                        start.leaf[q] = leaf
                    if log_max > reference:
                        total[k] = total[k] * math.exp(reference - log_max) + w
                        reference = log_max
                    else:
                        total[k] += w * math.exp(log_max - reference)
        if start.leaf[q] >= 0:
            start.log_z[q] = np.float32(reference + math.log(total[k]))  # as float32 sees it, below
            start.cell[q] = np.searchsorted(cell_leaves, start.leaf[q], side="right") - 1
        else:  # moments are all there is
            sum_of_all = 0.0
            for g in range(len(cells.log_mass)):
                sum_of_all += math.exp(cells.log_mass[g, q] - cell_mass[k, 0])
            start.log_z[q] = np.float32(cell_mass[k, 0] + math.log(sum_of_all))


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
def _add_closed(
    row: NDArray[np.float64],
    log_mass: np.float32,
    hidden: np.float32,
    s: np.float32,
    s_max: np.float32,
    n: np.float32,
) -> np.float64:
    """Add Σ w, Σ w² and Σ a² of a closed group to the sums of a query, see `Results`; gives the mass."""
    t_length = (row.shape[0] - 3) // 4
    mass: np.float64 = np.exp(min(np.float64(log_mass), _HEAVIEST))
    row[0] += mass
    # Σ w² is the mass at noise σ/√2; of n weights it is at most the square of their sum.
    gain = _held(np.float32(2.0) * s, s_max) - np.float32(2.0) * _held(s, s_max)
    row[1 + 2 * t_length] += mass * mass * min(np.float64(1.0), np.exp(np.float64(gain)) / n)
    row[2 + 2 * t_length] += math.exp(2.0 * min(np.float64(hidden), _HEAVIEST))
    return mass


@_compiled
def _add_target(
    row: NDArray[np.float64],
    c: int,
    mass: np.float64,
    hidden: np.float32,
    target: np.float32,
    spread: np.float32,
    explained: np.float32,
) -> None:
    """Add channel c of the target of a closed group to the sums of a query."""
    t_length = (row.shape[0] - 3) // 4
    doubt, t = math.exp(2.0 * min(np.float64(hidden), _HEAVIEST)), np.float64(target)
    row[1 + c] += mass * t
    row[1 + t_length + c] += mass * (t * t + max(np.float32(0.0), spread - explained))
    row[3 + 2 * t_length + c] += doubt * t
    row[3 + 3 * t_length + c] += doubt * (t * t + spread)


@_compiled
def _shift(
    cross: NDArray[np.float32], r: NDArray[np.float32], u: NDArray[np.float32], mean: NDArray[np.float32]
) -> tuple[np.float32, np.float32]:
    """Cov(t, v) (D + σ² I)⁻¹ (u − μ) of one channel, and the variance of the target that it explains."""
    shift, explained = np.float32(0.0), np.float32(0.0)
    for i in range(u.shape[0]):
        b = cross[i] * r[i]
        shift += b * (u[i] - mean[i])
        explained += b * cross[i]
    return shift, explained


@_compiled
def _add_keys(
    leaf: int,
    q: int,
    patches: Patches,
    scale: np.float32,
    keys: KeyArrays,
    shifted: NDArray[np.float32],
    scores: NDArray[np.float32],
    results: Results,
) -> None:
    """Add the keys of a leaf to the sums of a query."""
    n = keys.leaf_keys[leaf + 1] - keys.leaf_keys[leaf]
    score_max = _key_scores(leaf, patches.scaled[q], scale, keys, shifted, scores)
    results.touched[q] += n
    log_max = np.float64(score_max) / _LOG2_E
    rows = keys.moments.shape[0]
    opened = results.opened[q]
    if log_max > results.opened_max[q]:
        shrink = math.exp(results.opened_max[q] - log_max)
        for c in range(rows):
            opened[c] *= shrink
        opened[rows] *= shrink * shrink
        results.opened_max[q] = log_max
    relative = log_max - results.opened_max[q]
    if relative < _NEGLIGIBLE:
        return
    _weights(scores, n, score_max)
    factor = math.exp(relative)
    start = keys.leaf_keys[leaf]
    for c in range(rows):
        opened[c] += factor * _dot(scores[:n], keys.moments[c, start : start + n])
    square = np.float32(0.0)
    for i in range(n):
        square += scores[i] * scores[i] * keys.moments[0, start + i]
    opened[rows] += factor * factor * square


@_compiled
def descend(
    part: int,
    parts: int,
    patches: Patches,
    start: Start,
    threshold: NDArray[np.float32],
    scores: CellScores,
    cells: Groups,
    cell_leaves: NDArray[np.int64],
    leaves: Groups,
    keys: KeyArrays,
    certified: bool,
    about: NDArray[np.float64],
    results: Results,
) -> None:
    """Sum every parts-th cell for all queries, opening cells into leaves and leaves into keys.

    Where certified, groups are opened for what they can hold at most, and what stays closed is bounded about
    the means h, (Q, T).
    """
    u, sigma2 = patches.rotated, patches.sigma2
    scale = _LOG2_E / sigma2
    half, inverse = np.float32(0.5) / sigma2, np.float32(1.0) / sigma2
    t_length = cells.target.shape[1]
    r = np.empty(u.shape[1], np.float32)
    shifted = np.zeros(keys.features.shape[1], np.float32)
    key_scores = np.empty(keys.longest, np.float32)
    inside = np.empty(u.shape[0], np.int64)
    for g in range(part, len(cells.n), parts):
        log_n = np.float32(math.log(cells.n[g]))
        s_max = np.float32(math.sqrt(2.0 * log_n))
        count = 0
        for q in range(u.shape[0]):
            z = np.float32(start.log_z[q])
            s, jensen = scores.s[g, q], scores.jensen[g, q] - z
            log_mass = scores.log_mass[g, q] - z
            hidden = _hidden(log_n, s_max, jensen, log_mass, s)
            most = hidden
            if certified:
                most = _log_most(patches.extent[q], cells.low[g], cells.high[g], log_n, sigma2) - z
            if max(hidden, most) > threshold[q] or g == start.cell[q]:
                inside[count] = q
                count += 1
                continue
            if certified:
                low, high = cells.target_low[g], cells.target_high[g]
                _add_bounds(results.bounds[q], about[q], most, jensen, low, high)
            if max(hidden, log_mass) > _NOTHING:
                row = results.closed[q]
                mass = _add_closed(row, log_mass, hidden, s, s_max, cells.n[g])
                shrink = np.float32(1.0) if s <= s_max else s_max / s
                for c in range(t_length):
                    target = cells.target[g, c] + shrink * scores.shift[g, c, q]
                    spread, explained = cells.target_variance[g, c], scores.explained[g, c]
                    _add_target(row, c, mass, hidden, target, spread, explained)
        if count == 0:
            continue
        for leaf in range(cell_leaves[g], cell_leaves[g + 1]):
            trace, log_det = _prepare(leaves.variance[leaf], sigma2, r)
            log_n = np.float32(math.log(leaves.n[leaf]))
            s_max = np.float32(math.sqrt(2.0 * log_n))
            mean, variance = leaves.mean[leaf], leaves.variance[leaf]
            for q in inside[:count]:
                plain, spread, gaussian = _far(u[q], mean, variance, r)
                z = np.float32(start.log_z[q])
                s = np.float32(math.sqrt(spread)) * inverse
                jensen = log_n - half * plain - trace - z
                log_mass = min(jensen + _held(s, s_max), log_n - np.float32(0.5) * gaussian - log_det - z)
                hidden = _hidden(log_n, s_max, jensen, log_mass, s)
                most = hidden
                if certified:
                    low, high = leaves.low[leaf], leaves.high[leaf]
                    most = _log_most(patches.extent[q], low, high, log_n, sigma2) - z
                if max(hidden, most) > threshold[q] or leaf == start.leaf[q]:
                    _add_keys(leaf, q, patches, scale, keys, shifted, key_scores, results)
                    continue
                if certified:
                    low, high = leaves.target_low[leaf], leaves.target_high[leaf]
                    _add_bounds(results.bounds[q], about[q], most, jensen, low, high)
                if max(hidden, log_mass) > _NOTHING:
                    row = results.closed[q]
                    mass = _add_closed(row, log_mass, hidden, s, s_max, leaves.n[leaf])
                    shrink = np.float32(1.0) if s <= s_max else s_max / s
                    for c in range(t_length):
                        shift, explained = _shift(leaves.cross[leaf, c], r, u[q], mean)
                        target = leaves.target[leaf, c] + shrink * shift
                        _add_target(row, c, mass, hidden, target, leaves.target_variance[leaf, c], explained)
