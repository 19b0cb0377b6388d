"""Keys and queries as sums of float16 numbers, so that tensor cores multiply them without loss.

Keys and queries are taken relative to a centre c among the keys, and in units: a unit is the step of 8-bit
keys, a power of two of the step of 16-bit keys, and a power of two for float keys, so that no coordinate of a
key exceeds 255. With a = (u − c) / unit and x = (v − c) / unit,

    log2 w = scale · (a·x − ½‖x‖² − ½‖a‖²),     scale = log2 e · λ · unit².

A key is x = x₀ + x₁, its nearest whole number and the fraction, in float16; 8-bit keys have no fraction. A
query is a = a₀ + a₁ (+ a₂), where a₀ is a multiple of 2^−k. The products of a₀ and x₀ are multiples of 2^−k
as well, and k is so small that their sums fit into the 24 bits of a float32 number: a₀·x₀ − ½‖x₀‖² − ½‖a₀‖²,
which is small for keys near the query, is exact in any order of additions. Only the products with fractions
are rounded. The kernel keeps the two apart in all but the simplest of the forms of `Form`.

With a precision for each coordinate, and ρ its ratio to the largest of the query,

    log2 w = scale · (Σ ρ a x − ½ Σ ρ x² − ½ Σ ρ a²),

where x² is also the sum of two float16 numbers. If ρ is 0 or 1, as in a mask, this is exact in the same way.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from lemmse.estimator.keys import Scale
from lemmse.estimator.queries import LARGEST_MAGNITUDE, LOG2_E, Queries

__all__ = ["LARGEST_UNITS", "LOWEST", "Form", "Format", "QueryPlanes", "forms", "planes_of"]

LARGEST_UNITS = 250
"""Largest absolute coordinate of a key that is not stored in 8 bits: its square must be a float16 number."""
LOWEST = -1e30
"""Score of what is not a key."""

_HALF_BITS = 11
_FLOAT_BITS = 24
_MOST_BITS = 8
"""Most bits after the point of a₀."""
_LARGEST_HALF = 65_504.0
_LARGEST_PLAIN = 2.0**14
"""Largest magnitude of log w for which the form PLAIN is precise enough."""
_ERROR = 1 / 64
"""Largest error of log2 w in the other forms."""
_SMALLEST_SCALE = 2.0**-64
"""Smallest scale, for which LOWEST still has no weight."""


class Form(IntEnum):
    """How the kernel computes the scores of a query."""

    NONE = 0
    """Not at all: float16 has not the range or the digits."""
    PLAIN = 1
    """All products added to one float32 number."""
    APART = 2
    """Exact products and others added up apart."""
    SHARP = 3
    """The same, for queries that are the sum of three float16 numbers."""


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
    scale: Scale
    """Where the keys lie, and how widely."""

    @property
    def grid(self) -> float:
        """The first part of a norm is a multiple of this, so that sums with it fit into float32."""
        return max(0.5, 2.0 ** math.ceil(math.log2(max(1.0, 3 * self.radius**2)) - _FLOAT_BITS))

    @property
    def spread(self) -> float:
        """Typical distance of two keys, in units."""
        return math.sqrt(2 * len(self.centre) * self.scale.variance) / self.unit

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

    form: Form
    planes: Tensor
    """a₀, a₁ and perhaps a₂; with a precision for each coordinate, those of ρ a; float16, (2 or 3, Q, KP)."""
    precisions: Tensor | None
    """−½ ρ as the sum of two float16 numbers, (2, Q, KP); None for white noise."""
    scale: Tensor
    """What one unit of a score is in log2 w, float32, (Q,)."""
    exact_scale: Tensor
    """The same in float64."""
    bias: Tensor
    """What is added to all scores of a query, float32, (Q,)."""
    constant: Tensor
    """What must be added to scores, for all keys alike, float64, (Q,)."""


def forms(queries: Queries, form: Format) -> Tensor:
    """Return the form of each query, the simplest that is precise enough, (Q,)."""
    a, scale = _units(queries, form), _scale(queries, form)
    magnitude = queries.magnitude(form.scale)
    step = 2.0 ** -_bits(a, form)
    bound, length = _bound(a, form), a.norm(dim=1)
    # Rounding of the exact sums if they are not, of the others, of the last part of queries, and of keys.
    inexact = torch.where(bound > form.grid * 2.0**_FLOAT_BITS, bound, 0.0)
    # By Cauchy and Schwarz it is three times as much, if all fractions are ±½ and point to one key.
    with_fractions = math.sqrt(a.shape[1]) / 6 * (step * form.radius + form.fractional * length)
    sums = (inexact + with_fractions) * 2.0**-_FLOAT_BITS
    white = queries.is_white

    def precise(parts: int) -> Tensor:
        rest = step * 2.0 ** -(_HALF_BITS * (parts - 1)) / 4 + form.rounding
        error: Tensor = scale * (sums + rest * form.spread)
        return (error < _ERROR) & white

    found = torch.full_like(magnitude, Form.NONE)
    found[precise(3)] = Form.SHARP
    # With a precision for each coordinate, float32 is as precise as elsewhere.
    found[precise(2) | (magnitude <= (0.0 if white else LARGEST_MAGNITUDE))] = Form.APART
    found[magnitude <= _LARGEST_PLAIN] = Form.PLAIN
    found[(a.abs().amax(dim=1) >= _LARGEST_HALF) | (scale <= _SMALLEST_SCALE)] = Form.NONE
    return found


def planes_of(queries: Queries, form: Format, how: Form, width: int) -> QueryPlanes:
    """Return the planes of queries of a form, padded with zeros to KP = `width` coordinates."""
    a, scale = _units(queries, form), _scale(queries, form)
    step = 2.0 ** -_bits(a, form)[:, None]
    precisions, ratio = None, torch.ones_like(a[:, :1])
    if not queries.is_white:
        ratio = queries.precision.double() / (scale / (LOG2_E * form.unit**2))[:, None]
        halves = _halves(-0.5 * ratio, 2)
        precisions = _padded(halves, width)
        ratio = -2 * (halves[0].double() + halves[1].double())
    first = ((ratio * a / step).round() * step).half()
    parts = [first, *_halves(ratio * a - first.double(), 2 if how == Form.SHARP else 1)]
    if queries.is_white:
        a = torch.stack(parts).double().sum(dim=0)
    # Scores of queries far from all keys are raised, so that they are small.
    square = (ratio * a.square()).sum(dim=1)
    bias = 0.5 * ((square.sqrt() - form.radius).clamp(min=0.0).square() - square)
    # On the grid of the products and norms, so that sums with it are exact.
    step = step[:, 0].clamp(max=form.grid)
    bias = ((bias / step).round() * step).float()
    return QueryPlanes(
        form=how,
        planes=_padded(parts, width),
        precisions=precisions,
        scale=scale.float(),
        exact_scale=scale,
        bias=bias,
        constant=-0.5 * square - bias.double(),
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
    length: Tensor = a.norm(dim=1)
    near = 0.5 * (length + form.radius).square()
    return torch.where(length < form.radius, near, 2 * form.radius * length)


def _halves(x: Tensor, count: int) -> list[Tensor]:
    """Return x as the sum of float16 numbers, largest first."""
    parts: list[Tensor] = []
    for _ in range(count):
        parts.append(x.half())
        x = x - parts[-1].double()
    return parts


def _padded(parts: list[Tensor], width: int) -> Tensor:
    stacked = torch.stack(parts)
    return torch.nn.functional.pad(stacked, (0, width - stacked.shape[2])).contiguous()
