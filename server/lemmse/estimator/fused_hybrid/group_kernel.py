"""What mode hybrid computes for each pair of a query and a group, in Triton, without leaving the chip.

The formulas are those of `lemmse.estimator.hybrid.group_sums`, where they are explained, with the distances
of `scores`. It is imported only where it runs: on a GPU, or in Triton's interpreter.
"""

import triton
import triton.language as tl

from lemmse.estimator.hybrid import group_sums

__all__ = ["closed_kernel", "probe_kernel"]

_ABSENT = tl.constexpr(-1e30)
_LARGEST_LOG = tl.constexpr(float(group_sums.LARGEST_LOG))
_LARGEST_S = tl.constexpr(80.0)
_TINY = tl.constexpr(1e-20)
_VARIANCE_FACTOR = tl.constexpr(float(group_sums.VARIANCE_FACTOR))
_TAIL = tl.constexpr(float(group_sums.TAIL))
_OFFSET = tl.constexpr(float(group_sums.OFFSET))
_LEAST_S_MAX = tl.constexpr(1e-6)
"""Positive substitute for s_max = 0 of a single key, which is a divisor."""


@triton.jit
def _row(table, number: tl.constexpr, G, group, here):  # type: ignore[no-untyped-def]
    """Return a row of a table of the groups, (1, BG)."""
    return tl.load(table + number * G + group, mask=here, other=0.0)[None, :]


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    square, spread, gaussian, constants, z, reach, at, inside, G, group, here, precision
):
    """Return log mass, the log of Jensen's bound, s, s_max, and log a of a group with few decisive keys."""
    log_n = _row(constants, 0, G, group, here)
    s_max = tl.maximum(_row(constants, 1, G, group, here), _LEAST_S_MAX)
    distance = tl.load(square + at, mask=inside, other=0.0) * precision
    s_square = tl.maximum(tl.load(spread + at, mask=inside, other=0.0), 0.0) * precision * precision
    s = tl.sqrt(s_square)
    jensen = _row(constants, 2, G, group, here) - 0.5 * distance - z[:, None]
    mass = _row(constants, 3, G, group, here) - 0.5 * tl.load(gaussian + at, mask=inside, other=0.0)
    held = tl.minimum(s, s_max)
    log_mass = tl.minimum(jensen + held * (s - 0.5 * held), mass - z[:, None])
    total = tl.maximum(distance + _row(constants, 4, G, group, here), 0.0) + _TINY
    variance = _VARIANCE_FACTOR * (s_square + _row(constants, 5, G, group, here)) / total
    x = tl.maximum(tl.sqrt(tl.maximum(total - variance, 0.0)) - reach[:, None], 0.0)
    x2 = x * x / (variance + _TINY)
    nearest = 0.5 * log_n - x2 / (4.0 + _TAIL * x2) - _OFFSET
    log_mass = tl.where(s > s_max, tl.minimum(log_mass, nearest), log_mass)
    return tl.where(inside, log_mass, _ABSENT), jensen, s, s_max, nearest


@triton.jit
def probe_kernel(  # type: ignore[no-untyped-def]
    square,  # float32, (Q, G)
    spread,  # float32, (Q, G)
    gaussian,  # float32, (Q, G)
    constants,  # float32, (6, G)
    masses,  # float32, (S, 3, Q): out, the largest limited log mass, Σ w relative to it, the largest log mass
    heaviest,  # int64, (S, Q): out, the group with the largest of all
    Q,
    G,
    precision,
    GAIN: tl.constexpr,  # the log mass exceeds Jensen's bound by at most this
    SPLIT: tl.constexpr,  # number of groups of a program
    BQ: tl.constexpr,
    BG: tl.constexpr,
):
    """Estimate Σ w over the groups of a split, and find the heaviest of these, before any is opened."""
    rows = tl.program_id(0) * BQ + tl.arange(0, BQ)
    split = tl.program_id(1)
    zero = tl.zeros((BQ,), tl.float32)
    largest = tl.full((BQ,), _ABSENT, tl.float32)
    total = tl.zeros((BQ,), tl.float32)
    best = tl.full((BQ,), 2 * _ABSENT, tl.float32)
    best_group = tl.zeros((BQ,), tl.int64)
    for block in range(SPLIT // BG):
        group = split * SPLIT + block * BG + tl.arange(0, BG)
        here = group < G
        inside = (rows < Q)[:, None] & here[None, :]
        at = rows.to(tl.int64)[:, None] * G + group[None, :]
        log_mass, jensen, _s, _s_max, _nearest = _scores(
            square, spread, gaussian, constants, zero, zero, at, inside, G, group, here, precision
        )
        trusted = tl.minimum(log_mass, jensen + GAIN)
        trusted = tl.where(inside, trusted, _ABSENT)
        higher = tl.maximum(largest, tl.max(trusted, 1))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(trusted - higher[:, None]), 1)
        largest = higher
        heavy = tl.max(log_mass, 1)
        which = tl.max(tl.where(log_mass == heavy[:, None], group.to(tl.int64)[None, :], -1), 1)
        best_group = tl.where(heavy > best, which, best_group)
        best = tl.maximum(best, heavy)
    valid = rows < Q
    tl.store(masses + split * 3 * Q + rows, largest, mask=valid)
    tl.store(masses + (split * 3 + 1) * Q + rows, total, mask=valid)
    tl.store(masses + (split * 3 + 2) * Q + rows, best, mask=valid)
    tl.store(heaviest + split * Q + rows, best_group, mask=valid)


@triton.jit
def closed_kernel(  # type: ignore[no-untyped-def]
    square,  # float32, (Q, G)
    spread,  # float32, (Q, G)
    gaussian,  # float32, (Q, G)
    shift,  # float32, (T, Q, G)
    constants,  # float32, (6, G)
    targets,  # float32, (2T, G)
    log_z,  # float32, (Q,)
    limits,  # float32, (Q,): the largest error of a group that stays closed
    summed,  # int8, (Q, G): whether a group was summed before
    opened,  # int8, (Q, G): out, whether to open a group
    sums,  # float32, (S, T, 7, Q): out, Σ w, Σ w², Σ a², Σ w t, Σ w t², Σ a² t, Σ a² t²
    masses,  # float32, (2, Q, G): out, w, and w min(1, s_max / s), if PATCH
    Q,
    G,
    QG,
    precision,
    T: tl.constexpr,
    PATCH: tl.constexpr,
    SPLIT: tl.constexpr,
    BQ: tl.constexpr,
    BG: tl.constexpr,
):
    """Choose the groups of a split to open, and sum over the others, relative to e^log_z, for one target."""
    rows = tl.program_id(0) * BQ + tl.arange(0, BQ)
    split = tl.program_id(1)
    c = tl.program_id(2)
    valid = rows < Q
    z = tl.load(log_z + rows, mask=valid, other=0.0)
    limit = tl.load(limits + rows, mask=valid, other=0.0)
    reach = tl.sqrt(tl.maximum(-2.0 * z, 0.0))
    # Sums over groups are reduced at the end: in the loop that would take longer than all else.
    w = tl.zeros((BQ, BG), tl.float32)
    w2 = tl.zeros((BQ, BG), tl.float32)
    a2 = tl.zeros((BQ, BG), tl.float32)
    wt = tl.zeros((BQ, BG), tl.float32)
    wt2 = tl.zeros((BQ, BG), tl.float32)
    a2t = tl.zeros((BQ, BG), tl.float32)
    a2t2 = tl.zeros((BQ, BG), tl.float32)
    for block in range(SPLIT // BG):
        group = split * SPLIT + block * BG + tl.arange(0, BG)
        here = group < G
        inside = valid[:, None] & here[None, :]
        at = rows.to(tl.int64)[:, None] * G + group[None, :]
        log_mass, _jensen, s, s_max, nearest = _scores(
            square, spread, gaussian, constants, z, reach, at, inside, G, group, here, precision
        )
        once = tl.minimum(s, s_max)
        mass = tl.exp(tl.minimum(log_mass, _LARGEST_LOG))
        rare = tl.exp(tl.minimum(nearest, _LARGEST_LOG))
        error = tl.where(s > s_max, rare, mass * (tl.exp(tl.minimum(once, _LARGEST_S)) - 1.0))
        left = inside & (tl.load(summed + at, mask=inside, other=1) == 0)
        opens = left & (error > limit[:, None])
        closed = left & (error <= limit[:, None])
        mass = tl.where(closed, mass, 0.0)
        square_error = tl.where(closed, error * error, 0.0)
        twice = tl.minimum(2.0 * s, s_max)
        growth = twice * (2.0 * s - 0.5 * twice) - 2.0 * once * (s - 0.5 * once)
        share = tl.exp(tl.minimum(growth - _row(constants, 0, G, group, here), 0.0))
        shrink = s_max / tl.maximum(s, s_max)
        moved = tl.load(shift + c * QG + at, mask=inside, other=0.0)
        t = tl.load(targets + c * G + group, mask=here, other=0.0)[None, :] + shrink * moved
        t2 = tl.load(targets + (T + c) * G + group, mask=here, other=0.0)[None, :] + t * t
        w += mass
        w2 += mass * mass * share
        a2 += square_error
        wt += mass * t
        wt2 += mass * t2
        a2t += square_error * t
        a2t2 += square_error * t2
        if c == 0:
            tl.store(opened + at, opens.to(tl.int8), mask=inside)
            if PATCH:
                tl.store(masses + at, mass, mask=inside)
                tl.store(masses + QG + at, mass * shrink, mask=inside)
    out = sums + (split * T + c) * 7 * Q + rows
    tl.store(out, tl.sum(w, 1), mask=valid)
    tl.store(out + Q, tl.sum(w2, 1), mask=valid)
    tl.store(out + 2 * Q, tl.sum(a2, 1), mask=valid)
    tl.store(out + 3 * Q, tl.sum(wt, 1), mask=valid)
    tl.store(out + 4 * Q, tl.sum(wt2, 1), mask=valid)
    tl.store(out + 5 * Q, tl.sum(a2t, 1), mask=valid)
    tl.store(out + 6 * Q, tl.sum(a2t2, 1), mask=valid)
