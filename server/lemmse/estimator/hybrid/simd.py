"""SIMD kernels: sums over coordinates of LANES columns at once, in vector registers.

A loop over the coordinates that adds to an array of column sums loads and stores the sums in every iteration,
since the compiler cannot prove that the array does not overlap the inputs. Here the sums are vectors in LLVM
IR, which are compiled for the width that the machine has, and stay in registers: four times as fast.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from lemmse.index.storage.packing import LANES

__all__ = [
    "LANES",
    "add_distances",
    "add_products",
    "add_squares",
    "add_weighted",
    "add_weighted_products",
    "add_weighted_squares",
    "dot",
    "inline",
    "largest_difference",
    "maximum",
    "posterior_means",
]

_FLAGS = ("contract", "reassoc", "nsz")
_Vector = ir.VectorType(ir.FloatType(), LANES)
_Whole = ir.VectorType(ir.IntType(32), LANES)
_UNROLLED = 2
"""Number of partial sums, so that an addition does not wait for the previous one."""


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a Numba intrinsic, given a function that returns its signature and its code generator."""
    return cast(Callable[..., Any], intrinsic(function))


class _Columns:
    """The arguments of an intrinsic, as vectors of LANES columns."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.builder = builder
        self._kinds = [kind.dtype if isinstance(kind, types.Array) else kind for kind in signature.args]
        self._data = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]

    def data(self, argument: int) -> Any:
        """Return an argument: a number, or the address of an array."""
        return self._data[argument]

    def splat(self, argument: int, place: Any) -> Any:
        """Return a vector with one number of an array in every column."""
        builder = self.builder
        value = builder.load(builder.gep(self._data[argument], [place]))
        first = builder.insert_element(
            ir.Constant(_Vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
        )
        return builder.shuffle_vector(first, first, ir.Constant(_Whole, None))

    def _at(self, argument: int, place: Any, kind: Any) -> Any:
        builder = self.builder
        return builder.bitcast(builder.gep(self._data[argument], [place]), kind.as_pointer())

    def load(self, argument: int, place: Any) -> Any:
        """Return LANES consecutive numbers of an array as float32, beginning at `place`."""
        builder, kind = self.builder, self._kinds[argument]
        if kind == types.float32:
            return builder.load(self._at(argument, place, _Vector), align=4)
        whole = ir.VectorType(ir.IntType(kind.bitwidth), LANES)
        numbers = builder.load(self._at(argument, place, whole), align=kind.bitwidth // 8)
        wide = (builder.sext if kind.signed else builder.zext)(numbers, _Whole)
        return builder.sitofp(wide, _Vector)

    def store(self, value: Any, argument: int, place: Any) -> None:
        self.builder.store(value, self._at(argument, place, _Vector), align=4)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """Return a b + c."""
        return self.builder.fadd(self.builder.fmul(a, b, flags=_FLAGS), c, flags=_FLAGS)

    def sums(self, count: Any, terms: int, add: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
        """Return `terms` sums over `count` coordinates; add(i, sums) returns the sums plus coordinate i."""
        builder = self.builder
        zero = ir.Constant(_Vector, None)
        kept = [[cgutils.alloca_once_value(builder, zero) for _ in range(terms)] for _ in range(_UNROLLED)]

        def add_to(slots: list[Any], place: Any) -> None:
            values = add(place, [builder.load(slot) for slot in slots])
            for slot, value in zip(slots, values, strict=True):
                builder.store(value, slot)

        rest = builder.urem(count, count.type(_UNROLLED))
        whole = builder.sub(count, rest)
        with cgutils.for_range_slice(builder, count.type(0), whole, count.type(_UNROLLED)) as (i, _):
            for j in range(_UNROLLED):
                add_to(kept[j], builder.add(i, count.type(j)))
        with cgutils.for_range_slice(builder, whole, count, count.type(1)) as (i, _):
            add_to(kept[0], i)
        totals = [builder.load(slot) for slot in kept[0]]
        for more in kept[1:]:
            totals = [
                builder.fadd(a, builder.load(b), flags=_FLAGS) for a, b in zip(totals, more, strict=True)
            ]
        return totals


@inline
def add_products(typing_context, x, x_first, rows, first, count, out, out_first):  # type: ignore[no-untyped-def]
    """Fill out[k] = Σ_i x[i] rows[i LANES + k] for LANES columns k and `count` coordinates i.

    Arrays of any shape are indexed flat, each beginning at a given place.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        x_first, first, count, out_first = (columns.data(i) for i in (1, 3, 4, 6))

        def add(i: Any, total: list[Any]) -> list[Any]:
            row = columns.load(2, builder.add(first, builder.mul(i, count.type(LANES))))
            return [columns.fused(columns.splat(0, builder.add(x_first, i)), row, total[0])]

        (total,) = columns.sums(count, 1, add)
        columns.store(total, 5, out_first)
        return context.get_dummy_value()

    places = types.int64
    return types.void(x, places, rows, places, places, out, places), generate


@inline
def add_distances(typing_context, u, u_first, leading, first, r, count, out):  # type: ignore[no-untyped-def]
    """Fill Σ d², Σ D d², Σ r d² of d = u − μ, for LANES columns and `count` coordinates.

    The rows of `leading` are μ and D in alternation; `r` is a separate array.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        u_first, first, count = (columns.data(i) for i in (1, 3, 5))
        size = count.type(LANES)

        def add(i: Any, total: list[Any]) -> list[Any]:
            place = builder.mul(i, size)
            of_mean = builder.add(first, builder.add(place, place))
            mean, variance = columns.load(2, of_mean), columns.load(2, builder.add(of_mean, size))
            d = builder.fsub(columns.splat(0, builder.add(u_first, i)), mean, flags=_FLAGS)
            square = builder.fmul(d, d, flags=_FLAGS)
            plain, varied, gaussian = total
            return [
                builder.fadd(square, plain, flags=_FLAGS),
                columns.fused(square, variance, varied),
                columns.fused(square, columns.load(4, place), gaussian),
            ]

        for j, total in enumerate(columns.sums(count, 3, add)):
            columns.store(total, 6, count.type(j * LANES))
        return context.get_dummy_value()

    places = types.int64
    return types.void(u, places, leading, places, r, places, out), generate


@inline
def add_weighted(typing_context, u, weight, u_first, leading, first, count, out):  # type: ignore[no-untyped-def]
    """Fill Σ λ d², Σ (λ d)² and Σ λ D of d = u − μ and weights λ; otherwise like `add_distances`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        u_first, first, count = (columns.data(i) for i in (2, 4, 5))
        size = count.type(LANES)

        def add(i: Any, total: list[Any]) -> list[Any]:
            of_mean = builder.add(first, builder.mul(i, builder.add(size, size)))
            mean, variance = columns.load(3, of_mean), columns.load(3, builder.add(of_mean, size))
            of_query = builder.add(u_first, i)
            weight = columns.splat(1, of_query)
            d = builder.fsub(columns.splat(0, of_query), mean, flags=_FLAGS)
            weighted = builder.fmul(weight, d, flags=_FLAGS)
            plain, square, trace = total
            return [
                columns.fused(weighted, d, plain),
                columns.fused(weighted, weighted, square),
                columns.fused(weight, variance, trace),
            ]

        for j, total in enumerate(columns.sums(count, 3, add)):
            columns.store(total, 6, count.type(j * LANES))
        return context.get_dummy_value()

    places = types.int64
    return types.void(u, weight, places, leading, places, places, out), generate


@inline
def add_weighted_products(  # type: ignore[no-untyped-def]
    typing_context, u, weight, u_first, leading, first, rows, rows_first, count, out, out_first
):
    """Fill Σ λ d b of d = u − μ, weights λ and rows of b; otherwise like `add_distances`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        u_first, first, rows_first, count, out_first = (columns.data(i) for i in (2, 4, 6, 7, 9))
        size = count.type(LANES)

        def add(i: Any, total: list[Any]) -> list[Any]:
            place = builder.mul(i, size)
            mean = columns.load(3, builder.add(first, builder.add(place, place)))
            of_query = builder.add(u_first, i)
            d = builder.fsub(columns.splat(0, of_query), mean, flags=_FLAGS)
            weighted = builder.fmul(columns.splat(1, of_query), d, flags=_FLAGS)
            return [columns.fused(weighted, columns.load(5, builder.add(rows_first, place)), total[0])]

        (total,) = columns.sums(count, 1, add)
        columns.store(total, 8, out_first)
        return context.get_dummy_value()

    places = types.int64
    return types.void(u, weight, places, leading, places, rows, places, places, out, places), generate


@inline
def add_squares(typing_context, x, x_first, rows, first, count, out, out_first):  # type: ignore[no-untyped-def]
    """Fill out[k] = Σ_i (x[i] − rows[i LANES + k])², rows may be integers; otherwise like `add_products`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        x_first, first, count, out_first = (columns.data(i) for i in (1, 3, 4, 6))

        def add(i: Any, total: list[Any]) -> list[Any]:
            row = columns.load(2, builder.add(first, builder.mul(i, count.type(LANES))))
            d = builder.fsub(columns.splat(0, builder.add(x_first, i)), row, flags=_FLAGS)
            return [columns.fused(d, d, total[0])]

        (total,) = columns.sums(count, 1, add)
        columns.store(total, 5, out_first)
        return context.get_dummy_value()

    places = types.int64
    return types.void(x, places, rows, places, places, out, places), generate


@inline
def add_weighted_squares(  # type: ignore[no-untyped-def]
    typing_context, x, weight, x_first, weight_first, rows, first, count, out, out_first
):
    """Fill out[k] = Σ_i weight[i] (x[i] − rows[i LANES + k])²; otherwise like `add_squares`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        x_first, weight_first, first, count, out_first = (columns.data(i) for i in (2, 3, 5, 6, 8))

        def add(i: Any, total: list[Any]) -> list[Any]:
            row = columns.load(4, builder.add(first, builder.mul(i, count.type(LANES))))
            d = builder.fsub(columns.splat(0, builder.add(x_first, i)), row, flags=_FLAGS)
            weighted = builder.fmul(columns.splat(1, builder.add(weight_first, i)), d, flags=_FLAGS)
            return [columns.fused(weighted, d, total[0])]

        (total,) = columns.sums(count, 1, add)
        columns.store(total, 7, out_first)
        return context.get_dummy_value()

    places = types.int64
    return types.void(x, weight, places, places, rows, places, places, out, places), generate


def _reduced(builder: Any, operation: str, vector: Any, *start: Any) -> Any:
    """Return the reduction of a vector to one number by an LLVM intrinsic."""
    kind = ir.FunctionType(ir.FloatType(), [*(value.type for value in start), _Vector])
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.vector.reduce.{operation}.v{LANES}f32"
    )
    return builder.call(function, [*start, vector], fastmath=[*_FLAGS, "nnan"])


@inline
def dot(typing_context, a, a_first, b, b_first):  # type: ignore[no-untyped-def]
    """Return Σ a b over LANES columns of two arrays, indexed flat from given places; b may be integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        product = builder.fmul(
            columns.load(0, columns.data(1)), columns.load(2, columns.data(3)), flags=_FLAGS
        )
        return _reduced(builder, "fadd", product, ir.Constant(ir.FloatType(), 0.0))

    return types.float32(a, types.int64, b, types.int64), generate


@inline
def posterior_means(  # type: ignore[no-untyped-def]
    typing_context, u, u_first, leading, first, r, r_first, mass, mass_first, moved, moved_first
):
    """Return Σ m μ + m' D r (u − μ) over LANES columns, where m' is the part of the mass m that shifts."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        first = columns.data(3)
        mean = columns.load(2, first)
        variance = columns.load(2, builder.add(first, first.type(LANES)))
        d = builder.fsub(columns.splat(0, columns.data(1)), mean, flags=_FLAGS)
        response = builder.fmul(variance, columns.load(4, columns.data(5)), flags=_FLAGS)
        moved = builder.fmul(columns.load(8, columns.data(9)), response, flags=_FLAGS)
        still = builder.fmul(columns.load(6, columns.data(7)), mean, flags=_FLAGS)
        total = columns.fused(moved, d, still)
        return _reduced(builder, "fadd", total, ir.Constant(ir.FloatType(), 0.0))

    places = types.int64
    arrays = (u, places, leading, places, r, places, mass, places, moved, places)
    return types.float32(*arrays), generate


@inline
def maximum(typing_context, a, first):  # type: ignore[no-untyped-def]
    """Return the largest of LANES consecutive numbers of an array, indexed flat from a given place."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        return _reduced(builder, "fmax", columns.load(0, columns.data(1)))

    return types.float32(a, types.int64), generate


@inline
def largest_difference(typing_context, a, a_first, b, b_first):  # type: ignore[no-untyped-def]
    """Return the largest |a − b| over LANES columns of two arrays, indexed flat from given places."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns = _Columns(context, builder, signature, arguments)
        a, b = (columns.load(i, columns.data(i + 1)) for i in (0, 2))
        kind = ir.FunctionType(_Vector, [_Vector])
        absolute = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fabs.v{LANES}f32")
        return _reduced(builder, "fmax", builder.call(absolute, [builder.fsub(a, b, flags=_FLAGS)]))

    return types.float32(a, types.int64, b, types.int64), generate
