"""The kernel: scores, weights and sums of a block of queries over a span of keys, without leaving the chip.

It is written in Triton, and imported only where it runs: on a GPU, or in Triton's interpreter. A program sums
BQ queries over the keys of one span, BM at a time, as they are stored: in packed runs of LANES keys (see
`lemmse.index.storage.packing`). For each block, tensor cores multiply the planes of the queries with the keys
(see `fixed_point`), the largest score so far is updated, and the weights w = n e^(log w), n the multiplicity,
are multiplied with the mean targets of the keys, and with the keys themselves if whole patches are requested.

Weights are split into two float16 numbers, and so are all values that they are multiplied with. A weight is
2^_WEIGHT_BITS times its value relative to the largest, so that those of many light keys do not vanish. Sums
of a block are added to the previous ones by rounding additions, since tensor cores truncate.
"""

from typing import Any

import triton
import triton.language as tl

from lemmse.estimator.fused.fixed_point import LARGEST_UNITS
from lemmse.index.storage.packing import LANES

__all__ = ["FINE_BITS", "WEIGHT_BITS", "fused_kernel", "tuned_kernel"]

WEIGHT_BITS = 15
"""Weights are multiplied by two to this power: the largest is then below the largest float16."""
FINE_BITS = 11
"""The second part of a value is multiplied by two to this power, which keeps it normal."""

_LANES = tl.constexpr(LANES)
_WEIGHT_BITS = tl.constexpr(WEIGHT_BITS)
_FINE = tl.constexpr(2.0**FINE_BITS)
_MOST = tl.constexpr(float(LARGEST_UNITS))
_LOWEST = tl.constexpr(-1e30)
_ROUND = tl.constexpr(1.5 * 2.0**23)
"""Adding and subtracting it rounds a float32 number below 2^22 to an integer."""


@triton.jit
def _split(x):  # type: ignore[no-untyped-def]
    """Return x as the sum of two float16 numbers."""
    first = x.to(tl.float16)
    return first, (x - first.to(tl.float32)).to(tl.float16)


@triton.jit
def _keys(codes, address, mask, centre, scale, BITS: tl.constexpr, SHIFT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return keys in units as whole numbers and fractions, float16, the shape of `address`."""
    raw = tl.load(codes + address, mask=mask, other=0)
    if BITS == 8:
        whole = raw.to(tl.float16) - centre.to(tl.float16)
        return whole, whole  # there is no fraction, and the second is not used
    elif BITS == 16:
        steps = raw.to(tl.int32) - centre.to(tl.int32)
        units = (steps + (1 << (SHIFT - 1))) >> SHIFT
        part = (steps - (units << SHIFT)).to(tl.float32) * (1.0 / (1 << SHIFT))
        return units.to(tl.float16), part.to(tl.float16)
    else:
        # Lanes of other strata may be read beside the span: they must stay finite.
        x = tl.minimum(tl.maximum((raw - centre) * scale, -_MOST), _MOST)
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
def _scores(  # type: ignore[no-untyped-def]
    coarse,
    fine,
    planes,
    precisions,
    codes,
    centres,
    scale,
    rows,
    lanes,
    first,
    Q,
    P: tl.constexpr,
    KP: tl.constexpr,
    K: tl.constexpr,
    BITS: tl.constexpr,
    SHIFT: tl.constexpr,
    SHARP: tl.constexpr,
    WEIGHTED: tl.constexpr,
):
    """Add the products of K coordinates from `first` on: exact ones to `coarse`, and others to `fine`.

    Unless SHARP, all are added to `coarse`.
    """
    column = first + tl.arange(0, K)
    inside = (column < P)[:, None]
    centre = tl.load(centres + column, mask=column < P, other=0)[:, None]
    whole, fraction = _keys(codes, lanes[None, :] + column[:, None] * _LANES, inside, centre, scale, BITS, SHIFT)
    place = rows[:, None] * KP + column[None, :]
    q0 = tl.load(planes + place)
    q1 = tl.load(planes + Q * KP + place)
    coarse = tl.dot(q0, whole, coarse)
    if SHARP:
        q2 = tl.load(planes + 2 * Q * KP + place)
        fine = tl.dot(q1, whole, fine)
        fine = tl.dot(q2, whole, fine)
        if BITS != 8:
            fine = tl.dot(q0, fraction, fine)
            fine = tl.dot(q1, fraction, fine)
    else:
        coarse = tl.dot(q1, whole, coarse)
        if BITS != 8:
            coarse = tl.dot(q0, fraction, coarse)
            coarse = tl.dot(q1, fraction, coarse)
        if WEIGHTED:
            square, rest = _square(whole, fraction, BITS)
            p0 = tl.load(precisions + place)
            p1 = tl.load(precisions + Q * KP + place)
            coarse = tl.dot(p0, square, coarse)
            coarse = tl.dot(p0, rest, coarse)
            coarse = tl.dot(p1, square, coarse)
    return coarse, fine


@triton.jit
def fused_kernel(  # type: ignore[no-untyped-def]
    planes,  # float16, (2 or 3, Q, KP): the queries u
    precisions,  # float16, (2, Q, KP): minus half of the precisions of the coordinates, if WEIGHTED
    scales,  # float32, (Q,): what one unit of a score is in log2 w
    biases,  # float32, (Q,): added to all scores
    codes,  # the packed keys
    norms,  # float32, (2, U): minus half of the squares of the keys, as the sum of two numbers
    moments,  # float32, packed: n, Σ t and Σ t² of the keys
    centres,  # (P,): subtracted from the codes; float16, int32 or float32
    unit,  # float32: float keys are multiplied by it
    spans,  # int64, (S, 5): place of the first run in codes, in moments, first key, first and last + 1 lane
    reference,  # float32, (S, 2, Q): out, the largest score, as the sum of two numbers
    sums,  # float32, (S, Q, V): out, Σ w, Σ w t, Σ w t²
    squares,  # float32, (S, Q): out, Σ w², if ESS
    patches,  # float32, (S, 1 or 2, Q, PATCH · chunks): out, Σ w x and Σ w x² for keys x in units, if PATCH
    Q,
    U,
    P: tl.constexpr,  # length of a key
    BITS: tl.constexpr,  # of an element of a key
    SHIFT: tl.constexpr,  # of 16-bit keys, bits after the point
    K: tl.constexpr,  # width of a chunk of coordinates
    CHUNKS: tl.constexpr,  # number of chunks
    TAIL: tl.constexpr,  # width of a last chunk, or 0
    SHARP: tl.constexpr,
    WEIGHTED: tl.constexpr,
    REPEATED: tl.constexpr,  # whether a key may have n > 1
    FINE: tl.constexpr,  # whether the second of the norms counts
    ROWS: tl.constexpr,  # number of target sums
    MOMENTS: tl.constexpr,  # length of the moments of a key, 1 + 2T
    V: tl.constexpr,  # columns of the target sums, twice their number and padded
    ESS: tl.constexpr,
    PATCH: tl.constexpr,  # width of a chunk of the patch sums, or 0
    SQUARES: tl.constexpr,  # whether patch sums include Σ w x²
    SPAN: tl.constexpr,  # longest span
    BQ: tl.constexpr,
    BM: tl.constexpr,
):
    KP: tl.constexpr = CHUNKS * K + TAIL
    span = tl.program_id(1)
    chunk = tl.program_id(2)
    rows = tl.program_id(0) * BQ + tl.arange(0, BQ)
    codes += tl.load(spans + span * 5)
    moments += tl.load(spans + span * 5 + 1)
    norms += tl.load(spans + span * 5 + 2)
    low = tl.load(spans + span * 5 + 3)
    high = tl.load(spans + span * 5 + 4)
    scale = tl.load(scales + rows)
    bias = tl.load(biases + rows)
    column = tl.arange(0, V)
    moment = column % (V // 2)  # the second half of the columns has the second parts of the values
    column_of_patch = chunk * PATCH + tl.arange(0, PATCH if PATCH > 0 else 1)

    common = tl.full((BQ,), _LOWEST if SHARP else 0.0, tl.float32)
    largest = tl.full((BQ,), _LOWEST, tl.float32)
    total = tl.zeros((BQ, V), tl.float32)
    square_total = tl.zeros((BQ,), tl.float32)
    patch_total = tl.zeros((BQ, PATCH if PATCH > 0 else 1), tl.float32)
    patch_squares = tl.zeros((BQ, PATCH if PATCH > 0 else 1), tl.float32)
    for block in range(0, SPAN // BM):
        lane = block * BM + tl.arange(0, BM)
        run, within = lane // _LANES, lane % _LANES
        lanes = run * (P * _LANES) + within
        valid = (lane >= low) & (lane < high)

        if WEIGHTED:
            norm = tl.where(valid, 0.0, _LOWEST)
        else:
            norm = tl.load(norms + lane)
            if FINE and not SHARP:
                norm += tl.load(norms + U + lane)
            norm = tl.where(valid, norm, _LOWEST)
        coarse = bias[:, None] + norm[None, :]
        fine = tl.zeros((BQ, BM), tl.float32)
        if FINE and SHARP:
            fine += tl.load(norms + U + lane)[None, :]
        if CHUNKS <= 2:
            for i in tl.static_range(0, CHUNKS):
                coarse, fine = _scores(
                    coarse, fine, planes, precisions, codes, centres, unit, rows, lanes, i * K, Q,
                    P, KP, K, BITS, SHIFT, SHARP, WEIGHTED,
                )  # fmt: skip
        else:
            for i in range(0, CHUNKS):
                coarse, fine = _scores(
                    coarse, fine, planes, precisions, codes, centres, unit, rows, lanes, i * K, Q,
                    P, KP, K, BITS, SHIFT, SHARP, WEIGHTED,
                )  # fmt: skip
        if TAIL > 0:
            coarse, fine = _scores(
                coarse, fine, planes, precisions, codes, centres, unit, rows, lanes, CHUNKS * K, Q,
                P, KP, TAIL, BITS, SHIFT, SHARP, WEIGHTED,
            )  # fmt: skip

        first_moment = run * (MOMENTS * _LANES) + within
        count = tl.load(moments + first_moment)
        count = tl.where(valid, count, 1.0)
        if SHARP:  # scores relative to the largest coarse one, a difference of which nothing is lost
            higher = tl.maximum(common, tl.max(coarse, 1))
            largest += common - higher
            common = higher
            score = (coarse - common[:, None]) + fine
        else:
            score = coarse
        if REPEATED:
            score += (1.0 / scale)[:, None] * tl.log2(count)[None, :]
        higher = tl.maximum(largest, tl.max(score, 1))
        shrink = tl.exp2((largest - higher) * scale)
        largest = higher
        w = tl.exp2(score * scale[:, None] + (largest * -scale + _WEIGHT_BITS)[:, None])
        w0, w1 = _split(w)

        value = tl.load(
            moments + first_moment[:, None] + moment[None, :] * _LANES,
            mask=(moment < ROWS)[None, :],
            other=0.0,
        )
        value = tl.where((moment > 0)[None, :], value / count[:, None], 1.0)
        value = tl.where(valid[:, None] & (moment < ROWS)[None, :], value, 0.0)
        v0, v1 = _split(value)
        v1 = ((value - v0.to(tl.float32)) * _FINE).to(tl.float16)
        v = tl.where((column < V // 2)[None, :], v0, v1)
        part = tl.dot(w0, v)
        part = tl.dot(w1, v, part)
        total = total * shrink[:, None] + part
        if ESS:
            w2 = tl.sum(w * w * tl.where(valid, 1.0 / count, 0.0)[None, :], 1)
            square_total = square_total * shrink * shrink + w2
        if PATCH > 0:
            inside = (column_of_patch < P)[:, None]
            centre = tl.load(centres + column_of_patch, mask=column_of_patch < P, other=0)[:, None]
            address = lanes[None, :] + column_of_patch[:, None] * _LANES
            whole, fraction = _keys(codes, address, inside, centre, unit, BITS, SHIFT)
            part = tl.dot(w0, tl.trans(whole))
            part = tl.dot(w1, tl.trans(whole), part)
            if BITS != 8:
                part = tl.dot(w0, tl.trans(fraction), part)
                part = tl.dot(w1, tl.trans(fraction), part)
            patch_total = patch_total * shrink[:, None] + part
            if SQUARES:
                square, rest = _square(whole, fraction, BITS)
                part = tl.dot(w0, tl.trans(square))
                part = tl.dot(w1, tl.trans(square), part)
                part = tl.dot(w0, tl.trans(rest), part)
                patch_squares = patch_squares * shrink[:, None] + part

    if chunk == 0:
        tl.store(reference + span * 2 * Q + rows, common)
        tl.store(reference + (span * 2 + 1) * Q + rows, largest)
        tl.store(sums + (span * Q + rows)[:, None] * V + column[None, :], total)
        if ESS:
            tl.store(squares + span * Q + rows, square_total)
    if PATCH > 0:
        width = tl.num_programs(2) * PATCH
        powers = 2 if SQUARES else 1
        place = (span * powers * Q + rows)[:, None].to(tl.int64) * width + column_of_patch[None, :]
        tl.store(patches + place, patch_total)
        if SQUARES:
            tl.store(patches + Q.to(tl.int64) * width + place, patch_squares)


def _configs() -> list[Any]:
    shapes = (
        (128, 64, 4, 3),
        (128, 64, 4, 2),
        (128, 128, 8, 3),
        (128, 128, 8, 2),
        (64, 64, 4, 3),
        (64, 128, 4, 3),
        (64, 32, 4, 2),
    )
    return [
        triton.Config({"BQ": queries, "BM": keys}, num_warps=warps, num_stages=stages)
        for queries, keys, warps, stages in shapes
    ]


tuned_kernel: Any = triton.autotune(
    _configs(),
    key=["P", "BITS", "SHARP", "WEIGHTED", "REPEATED", "FINE", "V", "ESS", "PATCH", "SQUARES"],
    cache_results=True,
)(fused_kernel)
"""The same for the block sizes that are fastest on the GPU at hand, which Triton measures and keeps on disk."""
