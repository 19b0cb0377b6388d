"""What the kernel must know of the keys of a stratum: their format, and their norms."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lemmse.estimator.fused.fixed_point import LARGEST_UNITS, Format
from lemmse.estimator.keys import Keys

__all__ = ["StratumKeys", "stratum_keys"]

_CHUNK = 1 << 24
"""Number of elements of keys that are examined at once."""
_FRACTION_ERROR = 2.0**-14
"""Typical error of the fraction of a float key in float16, in units."""


@dataclass(frozen=True, slots=True)
class StratumKeys:
    """How the keys of a stratum are represented, and what the kernel can leave out."""

    form: Format
    bits: int
    """Number of bits of an element of a key: 8, 16 or 32."""
    shift: int
    """Number of bits after the point of 16-bit keys."""
    inverse_unit: float
    """What float keys are multiplied by."""
    repeated: bool
    """Whether a key stands for several training patches."""
    fine: bool
    """Whether the second part of a norm is not always 0."""


def stratum_keys(keys: Keys, stratum: int, norms: Tensor) -> StratumKeys:
    """Return how the keys of a stratum are represented, and write −½‖x‖² to its columns of `norms`, (2, U)."""
    quantization, scale = keys.quantization, keys.scale(stratum)
    bits = 8 * quantization.dtype.itemsize
    centre = (scale.centre - quantization.low) / quantization.step
    centre = centre.round().float() if bits < 32 else centre.float()
    unit, shift = 1.0, 0
    if bits > 8:
        largest = max(
            float((codes.float() - centre[:, None]).abs().max()) for _, codes in _chunks(keys, stratum)
        )
        shift = math.ceil(math.log2(max(largest, 2.0**-100) / LARGEST_UNITS))
        shift = max(1, shift) if bits == 16 else shift
        unit = 2.0**shift
    whole_unit = unit * quantization.step
    form = Format(
        centre=centre,
        origin=quantization.low + quantization.step * centre.double(),
        unit=whole_unit,
        fractional=bits > 8,
        rounding=_FRACTION_ERROR if bits == 32 else 0.0,
        radius=math.sqrt(
            max(
                float((codes.float() - centre[:, None]).square_().sum(dim=0).max())
                for _, codes in _chunks(keys, stratum)
            )
        )
        / unit,
        spread=math.sqrt(2 * keys.p_length * scale.variance) / whole_unit,
    )
    repeated = False
    for first, codes in _chunks(keys, stratum):
        x = (codes.float() - centre[:, None]) / unit
        whole = x if bits == 8 else (x + 0.5).floor() if bits == 16 else x.round()
        part = None if bits == 8 else x - whole
        norms[:, first : first + codes.shape[1]] = form.norms(whole, part)
        repeated |= bool((keys.moments.columns(first, first + codes.shape[1])[0] != 1).any())
    start, stop = keys.strata[stratum : stratum + 2]
    return StratumKeys(
        form=form,
        bits=bits,
        shift=shift if bits == 16 else 0,
        inverse_unit=1 / unit,
        repeated=repeated,
        fine=bool(norms[1, start:stop].any()),
    )


def _chunks(keys: Keys, stratum: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the first key and the codes, (P, m), of parts of a stratum."""
    start, stop = keys.strata[stratum : stratum + 2]
    step = max(1, _CHUNK // keys.p_length)
    for first in range(start, stop, step):
        yield first, keys.codes.columns(first, min(first + step, stop))
