"""Keys and queries as sums of float16 numbers, so that tensor cores multiply them without loss.

Keys and queries are taken relative to a centre c, a key-sized point among the keys, and in units: a unit is
the step of 8-bit keys, a power of two of the step of 16-bit keys, and a power of two for float keys, so that
no coordinate of a key exceeds LARGEST_UNITS. With a = (u − c) / unit and x = (v − c) / unit,

    log2 w = scale · (a·x − ½‖x‖² − ½‖a‖²),     scale = log2 e · λ · unit².

A key is x = x₀ + x₁, its nearest whole number and the fraction, in float16; 8-bit keys have no fraction. A
query is a = a₀ + a₁ (+ a₂), where a₀ is a multiple of 2^−k. The products of a₀ and x₀ are multiples of 2^−k
as well, and k is so small that their sums fit into the 24 bits of a float32 number: a₀·x₀ − ½‖x₀‖² − ½‖a₀‖²,
which is small for keys near the query, is exact in any order of additions. Only the products with fractions
are rounded.

With a precision for each coordinate, and w its ratio to the largest of the query, it is

    log2 w = scale · (Σ w a x − ½ Σ w x² − ½ Σ w a²),

whose products are rounded to float32, as everywhere.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lemmse.estimator.queries import LOG2_E, Queries

__all__ = ["LARGEST_UNITS", "LOWEST", "SHARP_PLANES", "Format", "QueryPlanes", "planes_of", "resolved"]

LARGEST_UNITS = 250
"""Largest absolute coordinate of a key that is not stored in 8 bits: its square must be a float16 number."""
LOWEST = -1e30
"""Score of what is not a key."""
SHARP_PLANES = 3
"""Number of float16 numbers of a coordinate of a sharp query, otherwise two."""

_HALF_BITS = 11
_FLOAT_BITS = 24
_MOST_BITS = 8
"""Most bits after the point of a₀."""
_LARGEST_HALF = 65_504.0
_RESOLUTION = 1 / 32
"""Largest error of log2 w, as in `queries`."""
_SMALLEST_SCALE = 2.0**-64
"""Smallest scale, for which LOWEST still has no weight."""


@dataclass(frozen=True, slots=True)
class Format:
    """How the keys of a stratum are represented."""

    centre: Tensor
    """The centre c, in steps of the keys: whole numbers unless they are float, float32, (P,)."""
    origin: Tensor
    """The centre in the coordinates of the keys, float64, (P,)."""
    unit: float
    """The unit."""
    fractional: bool
    """Whether keys have fractions."""
    rounding: float
    """Typical error of a coordinate of a key, in units: 0 if its fraction is exact."""
    radius: float
    """Largest ‖x‖."""
    spread: float
    """Typical distance of two keys, in units."""

    @property
    def grid(self) -> float:
        """The first part of a norm is a multiple of this, so that sums with it fit into float32."""
        return max(0.5, 2.0 ** math.ceil(math.log2(max(1.0, 2 * self.radius**2)) - _FLOAT_BITS))

    def norms(self, whole: Tensor, fraction: Tensor | None) -> Tensor:
        """Return −½‖x‖² as the sum of two float32 numbers, the first a multiple of the grid, (2, m).

        Parameters
        ----------
        whole, fraction : Tensor
            x₀ and x₁, (P, m); None if all fractions are 0.
        """
        exact = -0.5 * whole.double().square().sum(dim=0)
        coarse = (exact / self.grid).round() * self.grid
        fine = exact - coarse
        if fraction is not None:
            fine -= (fraction.double() * (whole.double() + 0.5 * fraction.double())).sum(dim=0)
        return torch.stack([coarse, fine]).float()


@dataclass(frozen=True, slots=True)
class QueryPlanes:
    """Queries as the kernel reads them."""

    planes: Tensor
    """a₀, a₁ and, if sharp, a₂; with a precision for each coordinate w a; float16, (2 or 3, Q, KP)."""
    precisions: Tensor | None
    """−½ w as the sum of two float16 numbers, (2, Q, KP); None for white noise."""
    scale: Tensor
    """What one unit of a score is in log2 w, float32, (Q,)."""
    exact_scale: Tensor
    """The same in float64."""
    bias: Tensor
    """What is added to all scores of a query, float32, (Q,)."""
    constant: Tensor
    """What must be added to scores, for all keys alike, float64, (Q,)."""


def resolved(queries: Queries, form: Format, *, sharp: bool) -> Tensor:
    """Return a mask of the queries that the planes resolve, bool, (Q,).

    Unless `sharp`, the magnitude of log w is known to be small enough for float32.
    """
    a = _units(queries, form)
    scale = _scale(queries, form)
    fits = (a.abs().amax(dim=1) < _LARGEST_HALF) & (scale > _SMALLEST_SCALE)
    if not sharp:
        return fits
    if not queries.is_white:
        return torch.zeros_like(fits)
    step = 2.0 ** -_bits(a, form)
    bound, length = _bound(a, form), a.norm(dim=1)
    inexact = torch.where(bound > form.grid * 2.0**_FLOAT_BITS, bound, 0.0)
    with_fractions = 0.5 * math.sqrt(a.shape[1]) * (step * form.radius + form.fractional * length)
    sums = (inexact + with_fractions) * 2.0**-_FLOAT_BITS
    parts = step * 2.0 ** -(2 * _HALF_BITS) + form.rounding
    return fits & (scale * (sums + parts * form.spread) < _RESOLUTION)


def planes_of(queries: Queries, form: Format, width: int, *, sharp: bool) -> QueryPlanes:
    """Return the planes of queries, padded with zeros to KP = `width` coordinates."""
    a = _units(queries, form)
    scale = _scale(queries, form)
    if queries.is_white:
        step = 2.0 ** -_bits(a, form)[:, None]
        parts = [((a / step).round() * step).half()]
        # On the grid of the products and norms, so that sums with it are exact. Scores of queries far from all
        # keys are raised, so that they are small.
        length = a.norm(dim=1, keepdim=True)
        bias = 0.5 * ((length - form.radius).clamp(min=0.0).square() - length.square())
        step = step.clamp(max=form.grid)
        bias = ((bias / step).round() * step)[:, 0].float()
        precisions = None
        for _ in range(SHARP_PLANES - 1 if sharp else 1):
            parts.append((a - sum(part.double() for part in parts)).half())
        constant = -0.5 * sum(part.double() for part in parts).square().sum(dim=1) - bias.double()
    else:
        ratio = queries.precision.double() / (scale / (LOG2_E * form.unit**2))[:, None]
        halves = _split(-0.5 * ratio)
        precisions = _padded(halves, width)
        ratio = -2 * sum(half.double() for half in halves)
        parts = _split(ratio * a)
        square = -0.5 * (ratio * a.square()).sum(dim=1)
        bias = square.float()
        constant = square - bias.double()
    return QueryPlanes(
        planes=_padded(parts, width),
        precisions=precisions,
        scale=scale.float(),
        exact_scale=scale,
        bias=bias,
        constant=constant,
    )


def _units(queries: Queries, form: Format) -> Tensor:
    """Return a, float64, (Q, P), 0 where nothing was observed."""
    return queries.deviation(form.origin) / form.unit


def _scale(queries: Queries, form: Format) -> Tensor:
    """Return the scale of each query, float64, (Q,): that of its largest precision."""
    precision = queries.precision.double()
    largest = precision.expand(len(queries)) if queries.is_white else precision.amax(dim=1)
    # All keys weigh the same if nothing was observed, whatever the scale.
    return LOG2_E * form.unit**2 * torch.where(largest > 0, largest, 1.0)


def _bits(a: Tensor, form: Format) -> Tensor:
    """Return k: a₀ is a multiple of 2^−k, float64, (Q,)."""
    tiny = torch.finfo(torch.float32).tiny
    of_half = _HALF_BITS - a.abs().amax(dim=1).clamp(min=tiny).log2()
    of_float = _FLOAT_BITS - _bound(a, form).clamp(min=1.0).log2()
    return torch.minimum(of_half, of_float).floor().clamp(max=_MOST_BITS)


def _bound(a: Tensor, form: Format) -> Tensor:
    """Return a bound of all partial sums of products and norms, float64, (Q,)."""
    return 3 * form.radius * a.norm(dim=1).clamp(min=form.radius)


def _split(x: Tensor) -> list[Tensor]:
    first = x.half()
    return [first, (x - first.double()).half()]


def _padded(parts: list[Tensor], width: int) -> Tensor:
    stacked = torch.stack(parts)
    return torch.nn.functional.pad(stacked, (0, width - stacked.shape[2])).contiguous()
