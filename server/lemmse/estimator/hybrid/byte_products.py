"""Products of bytes: a query compared with the sketches of keys in vector registers.

Processors with an instruction for it multiply 64 bytes at once and add each four products to a 32-bit sum;
others widen the bytes first. The same holds for pairs of 16-bit numbers.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types

from lemmse.estimator.hybrid.simd import inline
from lemmse.index.clustering.sketches import NEAR
from lemmse.index.storage.packing import LANES

__all__ = [
    "HALF",
    "INSTRUCTION",
    "LIMIT",
    "NEXT_LIMIT",
    "PAIRS",
    "ROW",
    "SHIFT",
    "near_boxes",
    "near_keys",
    "nearer_keys",
]

_WORDS = NEAR // 4
"""Words of coordinates of a level, after the number −½ ‖c‖²."""
SHIFT, LIMIT, NEXT_LIMIT = (3 * _WORDS + i for i in range(3))
"""Places in the row of a query, after the words of the first level and those of both."""
ROW = 4 * _WORDS
PAIRS = NEAR // 2
"""Words of a point that is compared with boxes, in 16 bits for each coordinate of the first level."""
HALF = LANES // 2
"""Keys that are compared at once: half a run."""
_AHEAD = 3
"""Number of runs by which keys are loaded ahead."""
_Word = ir.IntType(32)
_Words = ir.VectorType(_Word, HALF)
_Halves = ir.VectorType(ir.IntType(16), 2 * HALF)
_SUBTRACT = f"llvm.usub.sat.v{2 * HALF}i16"
_FEATURES = llvm.get_host_cpu_features()
INSTRUCTION = next((name for name in ("avx512vnni", "avx2") if _FEATURES.get(name)), "none")
"""The extension of the processor that is used: products of bytes, products of 16 bits, or plain integers."""
_Bytes = ir.VectorType(ir.IntType(8), 4 * HALF) if llvm.llvm_version_info[0] >= 22 else _Words
"""Type of the operands of the instruction, in this version of LLVM."""


def _splat(builder: Any, value: Any) -> Any:
    """Return a word in every lane of half a run."""
    first = builder.insert_element(ir.Constant(_Words, ir.Undefined), value, ir.Constant(_Word, 0))
    return builder.shuffle_vector(first, first, ir.Constant(_Words, None))


def _all(number: int) -> Any:
    return ir.Constant(_Words, [number] * HALF)


def _call(builder: Any, name: str, kind: Any, *arguments: Any) -> Any:
    """Return the result of a function of LLVM, of a type."""
    function_kind = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_kind, name), arguments)


def _add_products(builder: Any, total: Any, keys: Any, queries: Any) -> Any:
    """Return `total` plus the products of four unsigned bytes of each key and the signed ones of a query."""
    if INSTRUCTION == "avx512vnni":
        operands = [builder.bitcast(x, _Bytes) for x in (keys, queries)]
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _Words, total, *operands)
    even, odd = _all(0x00FF00FF), _all(8)
    if INSTRUCTION == "avx2":
        pairs = [(builder.and_(keys, even), _signed_pairs(builder, builder.shl(queries, odd)))]
        pairs.append((builder.and_(builder.lshr(keys, odd), even), _signed_pairs(builder, queries)))
        for key, query in pairs:
            total = builder.add(total, _pairs(builder, key, query))
        return total
    for byte in range(4):
        key = builder.and_(builder.lshr(keys, _all(8 * byte)), _all(255))
        query = builder.ashr(builder.shl(queries, _all(24 - 8 * byte)), _all(24))
        total = builder.add(total, builder.mul(key, query))
    return total


def _signed_pairs(builder: Any, words: Any) -> Any:
    """Return the upper byte of each half of a word, as a signed number of 16 bits."""
    shifted = builder.ashr(builder.bitcast(words, _Halves), ir.Constant(_Halves, [8] * (2 * HALF)))
    return builder.bitcast(shifted, _Words)


def _pairs(builder: Any, a: Any, b: Any) -> Any:
    """Return the products of both halves of the words, as signed numbers of 16 bits, added up."""
    if INSTRUCTION == "none":
        upper = builder.mul(builder.ashr(a, _all(16)), builder.ashr(b, _all(16)))
        a, b = (builder.ashr(builder.shl(x, _all(16)), _all(16)) for x in (a, b))
        return builder.add(upper, builder.mul(a, b))
    if INSTRUCTION == "avx512vnni":
        operands = [builder.bitcast(x, _Halves) for x in (a, b)]
        return _call(builder, "llvm.x86.avx512.pmaddw.d.512", _Words, *operands)
    quarter, halves = ir.VectorType(_Word, HALF // 2), ir.VectorType(ir.IntType(16), HALF)
    sums = []
    for first in (0, HALF // 2):
        places = ir.Constant(quarter, list(range(first, first + HALF // 2)))
        parts = (builder.bitcast(builder.shuffle_vector(x, x, places), halves) for x in (a, b))
        sums.append(_call(builder, "llvm.x86.avx2.pmadd.wd", quarter, *parts))
    return builder.shuffle_vector(*sums, ir.Constant(_Words, list(range(HALF))))


def _arrays(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Return the addresses of the arrays among the arguments, in order."""
    return [
        context.make_array(kind)(context, builder, argument).data
        for kind, argument in zip(signature.args, arguments, strict=True)
        if isinstance(kind, types.Array)
    ]


def _load(builder: Any, data: Any, place: Any) -> Any:
    """Return HALF consecutive words."""
    return builder.load(builder.bitcast(builder.gep(data, [place]), _Words.as_pointer()), align=4)


def _words(builder: Any, data: Any, place: Any, first: int, count: int) -> list[Any]:
    """Return the words first … first + count − 1 from a place, each in every lane."""
    places = [builder.add(place, place.type(first + i)) for i in range(count)]
    return [_splat(builder, builder.load(builder.gep(data, [at]))) for at in places]


def _key_words(builder: Any, data: Any, place: Any) -> list[Any]:
    """Return the words of the coordinates of a level, of half a run at a place."""
    return [_load(builder, data, builder.add(place, place.type((1 + i) * LANES))) for i in range(_WORDS)]


def _prefetch(builder: Any, data: Any, place: Any) -> None:
    """Load the half run that is some runs after that at a place into the cache: leaves are read in order."""
    address, hint = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address, hint, hint, hint])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    for i in range(_AHEAD * (1 + _WORDS), (_AHEAD + 1) * (1 + _WORDS)):
        at = builder.bitcast(builder.gep(data, [builder.add(place, place.type(i * LANES))]), address)
        builder.call(function, [at, hint(0), hint(3), hint(1)])


def _bits(builder: Any, lanes: Any) -> Any:
    return builder.zext(builder.bitcast(lanes, ir.IntType(HALF)), _Word)


def _list_above(  # type: ignore[no-untyped-def]
    builder, bias, keys, queries, columns, rows, count, own, hits, lanes
):
    """List the queries with a sum above their limit for any key of half a run, and return their number.

    `columns` are the first and the last word of the coordinates of a query, and the place of its limit;
    `own(i)` has a bit for each key that counts for query i of the list.
    """
    first, last, limit = columns
    found = cgutils.alloca_once_value(builder, count.type(0))
    with cgutils.for_range(builder, count) as loop:
        row = builder.load(builder.gep(rows, [loop.index]))
        words = _words(builder, queries, builder.mul(row, row.type(ROW)), 0, ROW)
        total = ir.Constant(_Words, None)
        for key, word in zip(keys, words[first:last], strict=True):
            total = _add_products(builder, total, key, word)
        total = builder.add(builder.shl(total, words[SHIFT]), bias)
        bits = builder.and_(_bits(builder, builder.icmp_signed(">", total, words[limit])), own(loop.index))
        at = builder.load(found)
        builder.store(row, builder.gep(hits, [at]))
        builder.store(bits, builder.gep(lanes, [at]))
        hit = builder.zext(builder.icmp_unsigned("!=", bits, _Word(0)), at.type)
        builder.store(builder.add(at, hit), found)  # no branch, which would often be mispredicted
    return builder.load(found)


@inline
def near_keys(  # type: ignore[no-untyped-def]
    typing_context, near, place, queries, rows, count, own, hits, lanes
):
    """List the queries for which  −½ ‖c‖² + 2^shift Σ a c  is above a limit, for some keys of half a run.

    `near` is indexed flat and has the half run at a place; `own` has a bit for each of the keys that count.
    `queries` has a row for each query: words a of the first level, those of both levels, the shift and the
    limits of both levels; `rows` has `count` numbers of rows. Numbers of rows are written to `hits`, the bits
    of their keys to `lanes`, and their count is returned.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        near, queries, rows, hits, lanes = _arrays(context, builder, signature, arguments)
        place, count, own = (arguments[i] for i in (1, 4, 5))
        bias, keys = _load(builder, near, place), _key_words(builder, near, place)
        _prefetch(builder, near, place)
        columns = 0, _WORDS, LIMIT
        return _list_above(builder, bias, keys, queries, columns, rows, count, lambda _: own, hits, lanes)

    places = types.int64
    return types.int64(near, places, queries, rows, places, types.uint32, hits, lanes), generate


@inline
def nearer_keys(  # type: ignore[no-untyped-def]
    typing_context, near, place, more, more_place, queries, hits, count, lanes
):
    """Keep in the lists of `near_keys`, of length `count`, what is above the limit at the second level."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        near, more, queries, hits, lanes = _arrays(context, builder, signature, arguments)
        place, more_place, count = (arguments[i] for i in (1, 3, 6))
        keys = _key_words(builder, near, place) + _key_words(builder, more, more_place)
        bias = _load(builder, more, more_place)
        _prefetch(builder, more, more_place)

        def own(i: Any) -> Any:
            return builder.load(builder.gep(lanes, [i]))

        columns = _WORDS, SHIFT, NEXT_LIMIT
        return _list_above(builder, bias, keys, queries, columns, hits, count, own, hits, lanes)

    places = types.int64
    return types.int64(near, places, more, places, queries, hits, places, lanes), generate


@inline
def near_boxes(typing_context, boxes, number, pairs, first, limit):  # type: ignore[no-untyped-def]
    """Return a bit for each box of a block: whether the squared distance of a point is at most a limit.

    `boxes` has blocks, (B, PAIRS, 2, LANES): the lower and the upper corner of LANES boxes, two coordinates
    in a word, as unsigned numbers of 16 bits. `pairs` is indexed flat and has the words of the point from
    `first`. Distances along a coordinate may be up to 10 000, so that their squares can be added.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, first, limit = (arguments[i] for i in (1, 3, 4))
        boxes, pairs = _arrays(context, builder, signature, arguments)
        point = [builder.bitcast(pair, _Halves) for pair in _words(builder, pairs, first, 0, PAIRS)]
        start = builder.mul(number, number.type(PAIRS * 2 * LANES))
        bits = []
        for half in (0, HALF):
            total = ir.Constant(_Words, None)
            for i in range(PAIRS):
                low, high = (
                    builder.bitcast(
                        _load(
                            builder, boxes, builder.add(start, start.type((2 * i + corner) * LANES + half))
                        ),
                        _Halves,
                    )
                    for corner in (0, 1)
                )
                below = _call(builder, _SUBTRACT, _Halves, low, point[i])
                above = _call(builder, _SUBTRACT, _Halves, point[i], high)
                off = builder.bitcast(builder.or_(below, above), _Words)  # one of them is 0
                total = builder.add(total, _pairs(builder, off, off))
            bits.append(_bits(builder, builder.icmp_signed("<=", total, _splat(builder, limit))))
        return builder.or_(bits[0], builder.shl(bits[1], _Word(HALF)))

    return types.uint32(boxes, types.int64, pairs, types.int64, types.int32), generate
