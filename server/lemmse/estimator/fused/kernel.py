"""The kernel: scores, weights and sums of a block of queries over a span of keys, without leaving the chip.

It is written in Triton, and imported only where it runs: on a GPU, or in Triton's interpreter. A program sums
BQ queries over the keys of one span, BM at a time, as they are stored: in packed runs of LANES keys (see
`lemmse.index.storage.packing`). Either all queries are summed over all spans, or each span has a list of
queries, as in mode hybrid. For each block, tensor cores multiply the planes of the queries with the keys
(see `fixed_point`), the largest score so far is updated, and the weights w = n e^(log w), n the multiplicity,
are multiplied with the mean targets of the keys, and with the keys themselves if whole patches are requested.

Weights are split into two float16 numbers, and so are all values that they are multiplied with. A weight is
2^_WEIGHT_BITS times its value relative to the largest, so that those of many light keys do not vanish. Sums
of a block are added to the previous ones by rounding additions, since tensor cores truncate.
"""

from typing import Any

import triton
import triton.language as tl

from lemmse.estimator.fused.fixed_point import LARGEST_UNITS, LOWEST
from lemmse.index.storage.packing import LANES

__all__ = ["WEIGHT_BITS", "fused_kernel", "tuned_kernel"]

WEIGHT_BITS = 15
"""Weights are multiplied by two to this power: the largest is then below the largest float16."""

_LANES = tl.constexpr(LANES)
_WEIGHT_BITS = tl.constexpr(WEIGHT_BITS)
_MOST = tl.constexpr(float(LARGEST_UNITS))
_LOWEST = tl.constexpr(LOWEST)
_ROUND = tl.constexpr(1.5 * 2.0**23)
"""Adding and subtracting it rounds a float32 number below 2^22 to an integer."""


@triton.jit
def _split(x):  # type: ignore[no-untyped-def]
    """Return x as the sum of two float16 numbers."""
    first = x.to(tl.float16)
    return first, (x - first.to(tl.float32)).to(tl.float16)


@triton.jit
def _keys(  # type: ignore[no-untyped-def]
    codes,
    lanes,
    column,
    centre,
    unit,
    P: tl.constexpr,
    BITS: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """Return some coordinates of keys in units, (columns, lanes): whole numbers and fractions, in float16."""
    address = lanes[None, :] + column[:, None] * _LANES
    raw = tl.load(codes + address, mask=(column < P)[:, None], other=0)
    if BITS == 8:
        whole = raw.to(tl.float16) - centre.to(tl.float16)[:, None]
        return whole, whole  # there is no fraction, and the second is not used
    if BITS == 16:
        steps = raw.to(tl.int32) - centre.to(tl.int32)[:, None]
        units = (steps + (1 << (SHIFT - 1))) >> SHIFT
        part = (steps - (units << SHIFT)).to(tl.float32) * (1.0 / (1 << SHIFT))
        return units.to(tl.float16), part.to(tl.float16)
    # Lanes of other strata may be read beside the span: they must stay finite.
    x = tl.minimum(tl.maximum((raw - centre[:, None]) * unit, -_MOST), _MOST)
    rounded = (x + _ROUND) - _ROUND
    return rounded.to(tl.float16), (x - rounded).to(tl.float16)


@triton.jit
def _square(whole, fraction, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the squares of keys as the sum of two float16 numbers."""
    x = whole.to(tl.float32)
    if BITS != 8:
        x += fraction.to(tl.float32)
    return _split(x * x)


@triton.jit
def _of_lanes(address, own, other, LISTED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return what lanes have, or `other` for lanes that a list of queries is not summed over."""
    if LISTED:
        return tl.load(address, mask=own, other=other)
    return tl.load(address)


@triton.jit
def _plane(planes, place, size, number: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return one of the planes of queries, each of `size` elements."""
    return tl.load(planes + number * size + place)


@triton.jit
def _products(  # type: ignore[no-untyped-def]
    coarse,
    fine,
    q0,
    q1,
    q2,
    p0,
    p1,
    whole,
    fraction,
    BITS: tl.constexpr,
    PLANES: tl.constexpr,
    APART: tl.constexpr,
    WEIGHTED: tl.constexpr,
):
    """Add the products of some coordinates: exact ones to `coarse`, others to `fine` if APART."""
    coarse = tl.dot(q0, whole, coarse)
    if WEIGHTED:
        square, rest = _square(whole, fraction, BITS)
        coarse = tl.dot(p0, square, coarse)
        coarse = tl.dot(p0, rest, coarse)
    if APART:
        fine = tl.dot(q1, whole, fine)
        if PLANES == 3:
            fine = tl.dot(q2, whole, fine)
        if BITS != 8:
            fine = tl.dot(q0, fraction, fine)
            fine = tl.dot(q1, fraction, fine)
        if WEIGHTED:
            fine = tl.dot(p1, square, fine)
    else:
        coarse = tl.dot(q1, whole, coarse)
        if BITS != 8:
            coarse = tl.dot(q0, fraction, coarse)
            coarse = tl.dot(q1, fraction, coarse)
        if WEIGHTED:
            coarse = tl.dot(p1, square, coarse)
    return coarse, fine


@triton.jit(do_not_specialize=["Q"])
def fused_kernel(  # type: ignore[no-untyped-def]
    planes,  # float16, (2 or 3, Q, KP): the queries
    precisions,  # float16, (2, Q, KP): minus half of the precisions of the coordinates, if WEIGHTED
    scales,  # float32, (Q,): what one unit of a score is in log2 w
    biases,  # float32, (Q,): added to all scores
    codes,  # the packed keys
    norms,  # float32, (3, R): minus half of the squares of the keys, as the sum of two numbers, and log2 n
    targets,  # float16, (R, V): 1 and the means of t and t², each as the sum of two numbers
    centres,  # float32, (P,): subtracted from the codes
    unit,  # float32: float keys are multiplied by it
    spans,  # int64, (S, 4): place of the first run in the codes, its first row in norms and targets, the
    # first lane, and the lane after the last one; the lanes are used if LISTED
    listed,  # int64, (N,): the queries of each block of BQ, if LISTED
    places,  # int64, (N / BQ,): the span of each block, if LISTED
    reference,  # float32, (S, 2, N): out, the largest score, as the sum of two numbers
    sums,  # float32, (S, N, V): out, Σ w, Σ w t, Σ w t²
    squares,  # float32, (S, N): out, Σ w² / n, if ESS
    patches,  # float32, (S, 1 or 2, N, chunks · PATCH): out, Σ w x and Σ w x² for the keys x, if PATCH
    Q,
    R,
    N,  # number of rows of the sums: Q, or that of the listed queries, for which S = 1
    P: tl.constexpr,  # length of a key
    BITS: tl.constexpr,  # of an element of a key
    SHIFT: tl.constexpr,  # bits after the point of 16-bit keys
    K: tl.constexpr,  # width of a chunk of coordinates
    CHUNKS: tl.constexpr,  # number of chunks
    TAIL: tl.constexpr,  # width of one more chunk, or 0
    PLANES: tl.constexpr,  # number of planes of the queries, two or three
    APART: tl.constexpr,  # whether exact products and others are added up apart
    WEIGHTED: tl.constexpr,
    REPEATED: tl.constexpr,  # whether a key may have n > 1
    FINE: tl.constexpr,  # whether the second part of a norm counts
    V: tl.constexpr,  # columns of the targets
    ESS: tl.constexpr,
    PATCH: tl.constexpr,  # width of a chunk of the sums over patches, or 0
    SQUARES: tl.constexpr,  # whether these include Σ w x²
    LISTED: tl.constexpr,  # whether each span has its own queries
    SPAN: tl.constexpr,  # number of lanes
    BQ: tl.constexpr,
    BM: tl.constexpr,
):
    """Sum BQ queries over the keys of a span.

    Lanes without a key of the stratum have the least score, LOWEST: their weight, which is 1 as long as there
    was no key, becomes 0 with the first one.
    """
    KP: tl.constexpr = CHUNKS * K + TAIL
    chunk = tl.program_id(2)
    out = tl.program_id(0) * BQ + tl.arange(0, BQ)
    part = tl.program_id(1)
    rows, span = out, part
    if LISTED:
        rows = tl.load(listed + out)
        span = tl.load(places + tl.program_id(0))
        first_lane = tl.load(spans + span * 4 + 2)
        end_lane = tl.load(spans + span * 4 + 3)
    codes += tl.multiple_of(tl.load(spans + span * 4), _LANES)
    first_row = tl.multiple_of(tl.load(spans + span * 4 + 1), _LANES)
    norms += first_row
    targets += first_row * V
    scale = tl.load(scales + rows)
    bias = tl.load(biases + rows)
    target = tl.arange(0, V)

    # Queries of few coordinates stay in registers or shared memory.
    column = tl.arange(0, K)
    centre = tl.load(centres + column, mask=column < P, other=0.0)
    place = rows[:, None] * KP + column[None, :]
    q0 = _plane(planes, place, Q * KP, 0)
    q1 = _plane(planes, place, Q * KP, 1)
    q2 = _plane(planes, place, Q * KP, PLANES - 1)
    p0, p1 = q0, q1
    if WEIGHTED:
        p0 = _plane(precisions, place, Q * KP, 0)
        p1 = _plane(precisions, place, Q * KP, 1)
    if TAIL > 0:
        tail = CHUNKS * K + tl.arange(0, TAIL)
        tail_centre = tl.load(centres + tail, mask=tail < P, other=0.0)
        tail_place = rows[:, None] * KP + tail[None, :]
        t0 = _plane(planes, tail_place, Q * KP, 0)
        t1 = _plane(planes, tail_place, Q * KP, 1)
        t2 = _plane(planes, tail_place, Q * KP, PLANES - 1)
        s0, s1 = t0, t1
        if WEIGHTED:
            s0 = _plane(precisions, tail_place, Q * KP, 0)
            s1 = _plane(precisions, tail_place, Q * KP, 1)
    if PATCH > 0:
        patch = chunk * PATCH + tl.arange(0, PATCH)
        patch_centre = tl.load(centres + patch, mask=patch < P, other=0.0)
        patch_total = tl.zeros((BQ, PATCH), tl.float32)
        patch_squares = tl.zeros((BQ, PATCH), tl.float32)

    common = tl.full((BQ,), _LOWEST if APART else 0.0, tl.float32)
    largest = tl.full((BQ,), _LOWEST, tl.float32)
    total = tl.zeros((BQ, V), tl.float32)
    square_total = tl.zeros((BQ,), tl.float32)
    for block in range(SPAN // BM):
        lane = block * BM + tl.arange(0, BM)
        lanes = (lane // _LANES) * (P * _LANES) + lane % _LANES

        own = lane
        if LISTED:
            own = (lane >= first_lane) & (lane < end_lane)
        norm = _of_lanes(norms + lane, own, _LOWEST, LISTED)
        coarse = tl.zeros((BQ, BM), tl.float32)
        fine = tl.zeros((BQ, BM), tl.float32)
        if FINE:
            rest = _of_lanes(norms + R + lane, own, 0.0, LISTED)
            if APART:
                fine += rest[None, :]
            else:
                coarse += rest[None, :]
        for i in range(CHUNKS):
            if CHUNKS > 1:
                column = i * K + tl.arange(0, K)
                centre = tl.load(centres + column, mask=column < P, other=0.0)
                place = rows[:, None] * KP + column[None, :]
                q0 = _plane(planes, place, Q * KP, 0)
                q1 = _plane(planes, place, Q * KP, 1)
                q2 = _plane(planes, place, Q * KP, PLANES - 1)
                if WEIGHTED:
                    p0 = _plane(precisions, place, Q * KP, 0)
                    p1 = _plane(precisions, place, Q * KP, 1)
            whole, fraction = _keys(codes, lanes, column, centre, unit, P, BITS, SHIFT)
            coarse, fine = _products(
                coarse, fine, q0, q1, q2, p0, p1, whole, fraction, BITS, PLANES, APART, WEIGHTED
            )
        if TAIL > 0:
            whole, fraction = _keys(codes, lanes, tail, tail_centre, unit, P, BITS, SHIFT)
            coarse, fine = _products(
                coarse, fine, t0, t1, t2, s0, s1, whole, fraction, BITS, PLANES, APART, WEIGHTED
            )

        coarse += bias[:, None] + norm[None, :]
        score = coarse
        if APART:  # relative to the largest coarse score: nothing is lost in this difference
            higher = tl.maximum(common, tl.max(coarse, 1))
            largest += common - higher
            common = higher
            score = (coarse - common[:, None]) + fine
        if REPEATED:
            log_n = _of_lanes(norms + 2 * R + lane, own, 0.0, LISTED)
            score += (1.0 / scale)[:, None] * log_n[None, :]
        higher = tl.maximum(largest, tl.max(score, 1))
        shrink = tl.exp2((largest - higher) * scale)
        largest = higher
        w = tl.exp2(score * scale[:, None] + (largest * -scale + _WEIGHT_BITS)[:, None])
        w0, w1 = _split(w)

        t = _of_lanes(targets + lane[:, None] * V + target[None, :], own[:, None], 0.0, LISTED)
        added = tl.dot(w0, t)
        added = tl.dot(w1, t, added)
        total = total * shrink[:, None] + added
        if ESS:
            w2 = w * w
            if REPEATED:
                w2 *= tl.exp2(-log_n)[None, :]
            square_total = square_total * shrink * shrink + tl.sum(w2, 1)
        if PATCH > 0:
            whole, fraction = _keys(codes, lanes, patch, patch_centre, unit, P, BITS, SHIFT)
            added = tl.dot(w0, tl.trans(whole))
            added = tl.dot(w1, tl.trans(whole), added)
            if BITS != 8:
                added = tl.dot(w0, tl.trans(fraction), added)
                added = tl.dot(w1, tl.trans(fraction), added)
            patch_total = patch_total * shrink[:, None] + added
            if SQUARES:
                square, rest = _square(whole, fraction, BITS)
                added = tl.dot(w0, tl.trans(square))
                added = tl.dot(w1, tl.trans(square), added)
                added = tl.dot(w0, tl.trans(rest), added)
                patch_squares = patch_squares * shrink[:, None] + added

    if chunk == 0:
        tl.store(reference + part * 2 * N + out, common)
        tl.store(reference + (part * 2 + 1) * N + out, largest)
        tl.store(sums + (part * N + out)[:, None] * V + target[None, :], total)
        if ESS:
            tl.store(squares + part * N + out, square_total)
    if PATCH > 0:
        width = tl.num_programs(2) * PATCH
        powers = 2 if SQUARES else 1
        place = (part * powers * N + out)[:, None] * width + patch[None, :]
        tl.store(patches + place, patch_total)
        if SQUARES:
            tl.store(patches + N * width + place, patch_squares)


def _configs() -> list[Any]:
    shapes = (
        (128, 64, 8, 3),
        (128, 64, 4, 4),
        (128, 64, 4, 3),
        (128, 64, 4, 2),
        (128, 128, 4, 2),
        (64, 64, 4, 3),
        (64, 32, 4, 1),  # fits into the shared and tensor memory of all GPUs
    )
    return [
        triton.Config({"BQ": queries, "BM": keys}, num_warps=warps, num_stages=stages)
        for queries, keys, warps, stages in shapes
    ]


tuned_kernel: Any = triton.autotune(
    _configs(),
    key=["P", "BITS", "PLANES", "APART", "WEIGHTED", "REPEATED", "FINE", "V", "ESS", "PATCH", "SQUARES"],
    cache_results=True,
)(fused_kernel)
"""The same with the blocks that are fastest on the GPU at hand, which Triton measures and keeps on disk."""
