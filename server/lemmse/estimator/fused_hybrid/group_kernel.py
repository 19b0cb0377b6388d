"""What mode hybrid computes for each pair of a query and a group, in Triton, without leaving the chip.

The formulas are those of `lemmse.estimator.hybrid.group_sums`, where they are explained, and the products
those of `tables`. A program takes a block of queries and some groups of one parent: see `Visits`. The module
is imported only where it runs: on a GPU, or in Triton's interpreter.
"""

import math

import triton
import triton.language as tl

from lemmse.estimator.fused_hybrid.tables import CHUNK, CONSTANTS
from lemmse.estimator.hybrid import group_sums
from lemmse.estimator.queries import LOG2_E

__all__ = ["close_kernel", "probe_kernel"]

_LOG2_E = tl.constexpr(LOG2_E)
_ABSENT = tl.constexpr(-1e30)
_LARGEST_LOG = tl.constexpr(float(group_sums.LARGEST_LOG))
_LARGEST_S = tl.constexpr(80.0)
_TINY = tl.constexpr(1e-20)
_VARIANCE_FACTOR = tl.constexpr(float(group_sums.VARIANCE_FACTOR))
_TAIL = tl.constexpr(float(group_sums.TAIL))
_OFFSET = tl.constexpr(float(group_sums.OFFSET))
_LEAST_S_MAX = tl.constexpr(1e-6)
"""Positive substitute for s_max = 0 of a single key, which is a divisor."""
_UNCERTAIN = tl.constexpr(2.0)
"""Spread s of log w in a cell from which on its moments may be off by powers of e."""
_MARGIN = tl.constexpr(math.exp(-4.5))
"""Such a cell is opened at this share of the largest error, if its box may contain a key that counts."""
_NEGLIGIBLE = tl.constexpr(1e-9)
"""Groups are not summed if all of a program have less than this share of Σ w, and less error."""
_CHUNK = tl.constexpr(CHUNK)
_CONSTANTS = tl.constexpr(CONSTANTS)
_PRECISE: tl.constexpr = tl.constexpr("tf32x3")
"""Products are sums of three, so that tensor cores lose no more than float32 does."""


@triton.jit
def _exp(x):  # type: ignore[no-untyped-def]
    """Return e^x; `tl.exp` takes three times as many instructions, for results below 2^−126."""
    return tl.exp2(x * _LOG2_E)


@triton.jit
def _quotient(x, y):  # type: ignore[no-untyped-def]
    """Return x / y for y > 0; a division takes three times as many instructions, for very large y."""
    root = tl.rsqrt(y)
    return x * root * root


@triton.jit
def _row(constants, number, G, group, here):  # type: ignore[no-untyped-def]
    """Return a row of the constants of the groups, (1, BG)."""
    return tl.load(constants + number * G + group, mask=here, other=0.0)[None, :]


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    total, x, table, first, G, group, here
):
    """Add the products of some coordinates with the rows of a table from `first` on, (BQ, BG)."""
    row = first + tl.arange(0, _CHUNK)
    factor = tl.load(table + row[:, None] * G + group[None, :], mask=here[None, :], other=0.0)
    return tl.dot(x, factor, total, input_precision=_PRECISE)


@triton.jit
def _coordinates(u, query, number, KP):  # type: ignore[no-untyped-def]
    """Return a chunk of the coordinates of queries, (BQ, CHUNK)."""
    return tl.load(u + query[:, None] * KP + number * _CHUNK + tl.arange(0, _CHUNK)[None, :])


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    u,
    square,
    means,
    leading,
    constants,
    z,
    reach,
    query,
    G,
    group,
    here,
    precision,
    CHUNKS: tl.constexpr,
    LEADING: tl.constexpr,
    BQ: tl.constexpr,
    BG: tl.constexpr,
):
    """Return log mass, the log of Jensen's bound, s, s_max, and log a of a group with few decisive keys."""
    along = tl.zeros((BQ, BG), tl.float32)
    spread = tl.zeros((BQ, BG), tl.float32)
    gaussian = tl.zeros((BQ, BG), tl.float32)
    for i in range(LEADING):
        x = _coordinates(u, query, i, CHUNKS * _CHUNK)
        row = i * _CHUNK
        along = _product(along, x, means, row, G, group, here)
        spread = _product(spread, x * x, leading, row, G, group, here)
        spread = _product(spread, x, leading, row + LEADING * _CHUNK, G, group, here)
        gaussian = _product(gaussian, x * x, leading, row + 2 * LEADING * _CHUNK, G, group, here)
        gaussian = _product(gaussian, x, leading, row + 3 * LEADING * _CHUNK, G, group, here)
    for i in range(LEADING, CHUNKS):
        x = _coordinates(u, query, i, CHUNKS * _CHUNK)
        along = _product(along, x, means, i * _CHUNK, G, group, here)
    distance = tl.load(square + query)[:, None] - 2.0 * along + _row(constants, 6, G, group, here)
    distance = tl.maximum(distance, 0.0)
    spread += _row(constants, 7, G, group, here) * distance + _row(constants, 8, G, group, here)
    gaussian += _row(constants, 9, G, group, here) * distance + _row(constants, 10, G, group, here)

    log_n = _row(constants, 0, G, group, here)
    s_max = tl.maximum(_row(constants, 1, G, group, here), _LEAST_S_MAX)
    distance *= precision
    s_square = tl.maximum(spread, 0.0) * precision * precision
    s = tl.sqrt(s_square)
    jensen = _row(constants, 2, G, group, here) - 0.5 * distance - z[:, None]
    mass = _row(constants, 3, G, group, here) - 0.5 * gaussian
    held = tl.minimum(s, s_max)
    log_mass = tl.minimum(jensen + held * (s - 0.5 * held), mass - z[:, None])
    total = distance + _row(constants, 4, G, group, here) + _TINY
    variance = _quotient(_VARIANCE_FACTOR * (s_square + _row(constants, 5, G, group, here)), total)
    x = tl.maximum(tl.sqrt(tl.maximum(total - variance, 0.0)) - reach[:, None], 0.0)
    x *= x
    nearest = 0.5 * log_n - _quotient(x, 4.0 * (variance + _TINY) + _TAIL * x) - _OFFSET
    log_mass = tl.where(s > s_max, tl.minimum(log_mass, nearest), log_mass)
    return log_mass, jensen, s, s_max, nearest


@triton.jit
def _block(blocks, query, BQ: tl.constexpr, BG: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the queries and groups of a program, and where its pairs are."""
    at = blocks + tl.program_id(0) * 7
    lane = tl.arange(0, BQ)
    valid = lane < tl.load(at + 1)
    row = tl.load(at) + lane
    number = tl.load(query + row, mask=valid, other=0)
    column = tl.arange(0, BG)
    here = column < tl.load(at + 3)
    group = tl.load(at + 2) + column
    pair = tl.load(at + 4) + column[None, :] * tl.load(at + 5) + lane[:, None]
    return row, number, valid, group, here, pair, tl.load(at + 6) + lane


@triton.jit(do_not_specialize=["G", "V"])
def probe_kernel(  # type: ignore[no-untyped-def]
    u,  # float32, (Q, KP): the queries
    square,  # float32, (Q,): their squared norms
    means,  # float32, (KP, G)
    leading,  # float32, ((4 + T) · KR, G)
    constants,  # float32, (CONSTANTS + 3T, G)
    query,  # int64, (N,): see `Visits`, as are the blocks
    blocks,  # int64, (B, 7)
    masses,  # float32, (3, V): out, the largest limited log mass, Σ w relative to it, the largest log mass
    heaviest,  # int64, (V,): out, the group with the largest of all
    G,
    V,
    precision,
    GAIN: tl.constexpr,  # the log mass exceeds Jensen's bound by at most this
    CHUNKS: tl.constexpr,  # of all coordinates
    LEADING: tl.constexpr,  # of the leading ones
    BQ: tl.constexpr,
    BG: tl.constexpr,
):
    """Estimate Σ w over some groups, and find the heaviest of these, before any is opened."""
    _row_number, number, valid, group, here, _pair, out = _block(blocks, query, BQ, BG)
    zero = tl.zeros((BQ,), tl.float32)
    log_mass, jensen, _s, _s_max, _nearest = _scores(
        u,
        square,
        means,
        leading,
        constants,
        zero,
        zero,
        number,
        G,
        group,
        here,
        precision,
        CHUNKS,
        LEADING,
        BQ,
        BG,
    )
    log_mass = tl.where(here[None, :], log_mass, _ABSENT)
    trusted = tl.minimum(log_mass, jensen + GAIN)
    largest = tl.max(trusted, 1)
    best = tl.max(log_mass, 1)
    which = tl.max(tl.where((log_mass == best[:, None]) & here[None, :], group[None, :], 0), 1)
    tl.store(masses + out, largest, mask=valid)
    tl.store(masses + V + out, tl.sum(_exp(trusted - largest[:, None]), 1), mask=valid)
    tl.store(masses + 2 * V + out, best, mask=valid)
    tl.store(heaviest + out, which, mask=valid)


@triton.jit(do_not_specialize=["G", "Q"])
def close_kernel(  # type: ignore[no-untyped-def]
    u,  # the first seven as for `probe_kernel`
    square,
    means,
    leading,
    constants,
    query,
    blocks,
    shrinkage,  # float32, (KP, G), if PATCH
    log_z,  # float32, (Q,)
    limit,  # the largest error of a group that stays closed
    extent,  # float32, (E, Q), if E > 0
    low,  # float32, (E, G)
    high,  # float32, (E, G)
    radius,  # float32, (Q,): the square of the distance within which a single key counts
    forced,  # int32: the group that is opened in any case, or -1, (G, Q) if E > 0, otherwise (N,)
    opened,  # int8, (pairs,): out, whether a group is opened
    sums,  # float32, (3 + 4T, Q): added to, Σ w, Σ w², Σ a²; Σ w t, Σ w t², Σ a² t, Σ a² t² for each target
    patches,  # float32, (Q, KP): added to, Σ w v along the axes, if PATCH
    Q,
    G,
    precision,
    E: tl.constexpr,  # length of the extents, or 0 to judge all groups by their moments
    T: tl.constexpr,
    PATCH: tl.constexpr,
    CHUNKS: tl.constexpr,
    LEADING: tl.constexpr,
    BQ: tl.constexpr,
    BG: tl.constexpr,
):
    """Choose the groups to open, and add the sums over the others, relative to e^log_z."""
    row, number, valid, group, here, pair, _out = _block(blocks, query, BQ, BG)
    inside = valid[:, None] & here[None, :]
    z = tl.load(log_z + number)
    reach = tl.sqrt(tl.maximum(-2.0 * z, 0.0))
    log_mass, _jensen, s, s_max, nearest = _scores(
        u,
        square,
        means,
        leading,
        constants,
        z,
        reach,
        number,
        G,
        group,
        here,
        precision,
        CHUNKS,
        LEADING,
        BQ,
        BG,
    )
    few = s > s_max
    once = tl.minimum(s, s_max)
    mass = _exp(tl.minimum(log_mass, _LARGEST_LOG))
    rare = _exp(tl.minimum(nearest, _LARGEST_LOG))
    error = tl.where(few, rare, mass * (_exp(tl.minimum(once, _LARGEST_S)) - 1.0))
    opens = error > limit
    if E > 0:
        # The moments of a large group do not know its outliers: one of those within the box may count.
        distance = tl.zeros((BQ, BG), tl.float32)
        for k in range(E):
            x = tl.load(extent + k * Q + number)[:, None]
            below = tl.load(low + k * G + group, mask=here, other=0.0)[None, :] - x
            above = x - tl.load(high + k * G + group, mask=here, other=0.0)[None, :]
            outside = tl.maximum(tl.maximum(below, above), 0.0)
            distance += outside * outside
        within = distance <= tl.load(radius + number)[:, None]
        opens = tl.where(few, within, opens | (within & (s > _UNCERTAIN) & (error > _MARGIN * limit)))
        mass = tl.where(few, 0.0, mass)
        error = tl.where(few, 0.0, error)
        kept = tl.load(forced + group[None, :] * Q + number[:, None], mask=inside, other=-1) >= 0
    else:
        kept = tl.load(forced + row, mask=valid, other=-1)[:, None] == group[None, :]
    opens = opens | kept
    tl.store(opened + pair, opens.to(tl.int8), mask=inside)
    closed = inside & (opens == 0)
    mass = tl.where(closed, mass, 0.0)
    error = tl.where(closed, error, 0.0)
    # One reduction: of two, axis by axis, Triton 3.7 compiles nothing for compute capability 10.0.
    if tl.max(tl.maximum(mass, error)) > _NEGLIGIBLE:
        square_error = error * error
        twice = tl.minimum(2.0 * s, s_max)
        growth = twice * (2.0 * s - 0.5 * twice) - 2.0 * once * (s - 0.5 * once)
        share = _exp(tl.minimum(growth - _row(constants, 0, G, group, here), 0.0))
        shrink = _quotient(s_max, tl.maximum(s, s_max))
        out = sums + number
        tl.atomic_add(out, tl.sum(mass, 1), mask=valid, sem="relaxed")
        tl.atomic_add(out + Q, tl.sum(mass * mass * share, 1), mask=valid, sem="relaxed")
        tl.atomic_add(out + 2 * Q, tl.sum(square_error, 1), mask=valid, sem="relaxed")
        for c in range(T):
            moved = tl.zeros((BQ, BG), tl.float32)
            for i in range(LEADING):
                x = _coordinates(u, number, i, CHUNKS * _CHUNK)
                moved = _product(moved, x, leading, ((4 + c) * LEADING + i) * _CHUNK, G, group, here)
            moved += _row(constants, _CONSTANTS + T + c, G, group, here)
            t = _row(constants, _CONSTANTS + c, G, group, here) + shrink * moved
            t2 = _row(constants, _CONSTANTS + 2 * T + c, G, group, here) + t * t
            of_target = out + (3 + 4 * c) * Q
            tl.atomic_add(of_target, tl.sum(mass * t, 1), mask=valid, sem="relaxed")
            tl.atomic_add(of_target + Q, tl.sum(mass * t2, 1), mask=valid, sem="relaxed")
            tl.atomic_add(of_target + 2 * Q, tl.sum(square_error * t, 1), mask=valid, sem="relaxed")
            tl.atomic_add(of_target + 3 * Q, tl.sum(square_error * t2, 1), mask=valid, sem="relaxed")
        if PATCH:
            for i in range(CHUNKS):
                coordinate = i * _CHUNK + tl.arange(0, _CHUNK)
                at = coordinate[None, :] * G + group[:, None]  # (BG, CHUNK)
                mean = tl.load(means + at, mask=here[:, None], other=0.0)
                gain = tl.load(shrinkage + at, mask=here[:, None], other=0.0)
                still = tl.dot(mass, mean, input_precision=_PRECISE)
                drawn = tl.dot(mass * shrink, gain, input_precision=_PRECISE)
                back = tl.dot(mass * shrink, gain * mean, input_precision=_PRECISE)
                x = _coordinates(u, number, i, CHUNKS * _CHUNK)
                place = number[:, None] * (CHUNKS * _CHUNK) + coordinate[None, :]
                tl.atomic_add(patches + place, still + drawn * x - back, mask=valid[:, None], sem="relaxed")
