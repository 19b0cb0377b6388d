"""Products of bytes: a query compared with the sketches of LANES keys, in vector registers.

Processors with an instruction for it multiply 64 bytes at once and add each four products to a 32-bit sum;
others widen the bytes first.
"""

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types

from lemmse.estimator.hybrid.simd import inline
from lemmse.index.storage.packing import LANES

__all__ = ["INSTRUCTION", "near_lanes", "nearer_lanes"]

_WORDS = 4
"""Words of coordinates of a level, after the number −½ ‖c‖²."""
_HALF = LANES // 2
_Word = ir.IntType(32)
_Words = ir.VectorType(_Word, _HALF)
_FEATURES = llvm.get_host_cpu_features()
INSTRUCTION = next((name for name in ("avx512vnni", "avx2") if _FEATURES.get(name)), "none")
"""The extension of the processor that is used: products of bytes, products of 16 bits, or plain integers."""
_Bytes = ir.VectorType(ir.IntType(8), 4 * _HALF) if llvm.llvm_version_info[0] >= 22 else _Words
"""Type of the operands of the instruction, in this version of LLVM."""


def _splat(builder: Any, value: Any) -> Any:
    """Return a word in every lane of half a run."""
    first = builder.insert_element(ir.Constant(_Words, ir.Undefined), value, ir.Constant(_Word, 0))
    return builder.shuffle_vector(first, first, ir.Constant(_Words, None))


def _all(number: int) -> Any:
    return ir.Constant(_Words, [number] * _HALF)


def _add_products(builder: Any, total: Any, keys: Any, queries: Any) -> Any:
    """Return `total` plus the products of four unsigned bytes of each key and the signed ones of a query."""
    if INSTRUCTION == "avx512vnni":
        kind = ir.FunctionType(_Words, [_Words, _Bytes, _Bytes])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
        return builder.call(function, [total, *(builder.bitcast(x, _Bytes) for x in (keys, queries))])
    even, odd = _all(0x00FF00FF), _all(8)
    if INSTRUCTION == "avx2":
        pairs = [(builder.and_(keys, even), _signed_pairs(builder, builder.shl(queries, odd)))]
        pairs.append((builder.and_(builder.lshr(keys, odd), even), _signed_pairs(builder, queries)))
        for key, query in pairs:
            total = builder.add(total, _add_pairs(builder, key, query))
        return total
    for byte in range(4):
        key = builder.and_(builder.lshr(keys, _all(8 * byte)), _all(255))
        query = builder.ashr(builder.shl(queries, _all(24 - 8 * byte)), _all(24))
        total = builder.add(total, builder.mul(key, query))
    return total


def _signed_pairs(builder: Any, words: Any) -> Any:
    """Return the upper byte of each half of a word, as a signed number of 16 bits."""
    halves = ir.VectorType(ir.IntType(16), 2 * _HALF)
    shifted = builder.ashr(builder.bitcast(words, halves), ir.Constant(halves, [8] * (2 * _HALF)))
    return builder.bitcast(shifted, _Words)


def _add_pairs(builder: Any, a: Any, b: Any) -> Any:
    """Return the products of both halves of the words, as signed numbers of 16 bits, added up."""
    quarter, halves = ir.VectorType(_Word, _HALF // 2), ir.VectorType(ir.IntType(16), _HALF)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(quarter, [halves, halves]), "llvm.x86.avx2.pmadd.wd"
    )
    sums = []
    for first in (0, _HALF // 2):
        places = ir.Constant(quarter, list(range(first, first + _HALF // 2)))
        parts = (builder.shuffle_vector(x, x, places) for x in (a, b))
        sums.append(builder.call(function, [builder.bitcast(part, halves) for part in parts]))
    return builder.shuffle_vector(*sums, ir.Constant(_Words, list(range(_HALF))))


def _lanes_above(
    builder: Any, bias: tuple[Any, Any], products: list[tuple[Any, Any, Any]], shift: Any, limit: Any
) -> Any:
    """Return a bit for each of LANES keys: whether a sum is above a limit.

    The sum is that of the products, times 2^shift, and a number of each key. `bias` has the address of an
    array and the position of that number; `products` has the address, the position of a word of each key, and
    the word of the query.
    """

    def load(data: Any, position: Any, half: int) -> Any:
        place = builder.add(position, position.type(half * _HALF))
        return builder.load(builder.bitcast(builder.gep(data, [place]), _Words.as_pointer()), align=4)

    bits = []
    for half in (0, 1):
        total = ir.Constant(_Words, None)
        for data, position, query in products:
            total = _add_products(builder, total, load(data, position, half), _splat(builder, query))
        total = builder.add(builder.shl(total, _splat(builder, shift)), load(*bias, half))
        above = builder.icmp_signed(">", total, _splat(builder, limit))
        bits.append(builder.zext(builder.bitcast(above, ir.IntType(_HALF)), _Word))
    return builder.or_(bits[0], builder.shl(bits[1], _Word(_HALF)))


def _words_of(context: Any, builder: Any, kind: Any, array: Any, place: Any, words: Any) -> list[Any]:
    """Return the products of the words of a level, whose run begins at a place, for `_lanes_above`."""
    data = context.make_array(kind)(context, builder, array).data
    at = [builder.add(place, place.type((1 + i) * LANES)) for i in range(_WORDS)]
    return [(data, position, word) for position, word in zip(at, words, strict=True)]


@inline
def near_lanes(typing_context, near, place, a0, a1, a2, a3, shift, limit):  # type: ignore[no-untyped-def]
    """Return a bit for each key of a run: whether  −½ ‖c‖² + 2^shift Σ a c  is above a limit.

    `near` is indexed flat and has the run at a place; a0 … a3 are the words of the query a.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        near, place, *words, shift, limit = arguments
        products = _words_of(context, builder, signature.args[0], near, place, words)
        return _lanes_above(builder, (products[0][0], place), products, shift, limit)

    return types.uint32(near, types.int64, *[types.int32] * (_WORDS + 2)), generate


@inline
def nearer_lanes(  # type: ignore[no-untyped-def]
    typing_context, near, place, more, more_place, a0, a1, a2, a3, b0, b1, b2, b3, shift, limit
):
    """Return bits as `near_lanes` does, at the second level: words a of `near` and words b of `more`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        near, place, more, more_place, *words, shift, limit = arguments
        kinds = signature.args
        first = _words_of(context, builder, kinds[0], near, place, words[:_WORDS])
        second = _words_of(context, builder, kinds[2], more, more_place, words[_WORDS:])
        return _lanes_above(builder, (second[0][0], more_place), [*first, *second], shift, limit)

    words = [types.int32] * (2 * _WORDS + 2)
    return types.uint32(near, types.int64, more, types.int64, *words), generate
