"""What the kernel must know of the keys of a stratum: their format, and a row for each key.

The kernel reads spans of lanes. Rows are therefore in the order of the lanes of the packed keys, from the
first run of the stratum in each part on, and padded to whole spans; rows that belong to no key of the stratum
have the score LOWEST.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lemmse.estimator.device_rows import DeviceRows
from lemmse.estimator.fused.fixed_point import LARGEST_UNITS, LOWEST, Format
from lemmse.estimator.keys import Keys

__all__ = ["FINE_BITS", "RATIO", "SHORTEST", "StratumKeys", "row_bytes"]

SHORTEST = 128
"""Least length of a span, that of the largest block of the kernel."""
RATIO = 8
"""Ratio of the lengths of spans, for each of which the kernel is compiled."""
FINE_BITS = 11
"""What a float16 number lacks is multiplied by two to this power, which keeps it normal."""
_CHUNK = 1 << 24
"""Number of elements of keys that are examined at once."""
_FRACTION_ERROR = 2.0**-14
"""Typical error of the fraction of a float key in float16, in units."""


@dataclass(frozen=True, slots=True)
class StratumKeys:
    """The keys of a stratum as the kernel reads them."""

    form: Format
    bits: int
    """Number of bits of an element of a key: 8, 16 or 32."""
    shift: int
    """Number of bits after the point of 16-bit keys."""
    inverse_unit: float
    """What float keys are multiplied by."""
    longest: int
    """Length of the spans to which the rows are padded, a power of two."""
    segments: tuple[tuple[int, int, int], ...]
    """First row, number of rows and place of the first run in the codes, of each part."""
    norms: Tensor
    """−½‖x‖² as the sum of two numbers, and log2 n, float32, (3, R)."""
    targets: Tensor
    """1, and the means of t and of t² over the n targets, float16, (R, V).

    Half of the columns have the nearest float16 numbers, the other half what these lack, times 2^FINE_BITS.
    """
    fine: bool
    """Whether the second part of a norm is not always 0."""
    repeated: bool
    """Whether a key stands for several training patches."""

    @classmethod
    def of(cls, keys: Keys, stratum: int, codes: DeviceRows, longest: int) -> "StratumKeys":
        """Return the keys of a stratum.

        Parameters
        ----------
        keys : Keys
            All keys.
        stratum : int
            Number of a stratum that has keys.
        codes : DeviceRows
            The keys as the kernel reads them.
        longest : int
            Greatest length of a span, a power of two.
        """
        bits = 8 * keys.quantization.dtype.itemsize
        form, shift = _format(keys, stratum, bits)
        while longest // RATIO >= max(SHORTEST, keys.count_in(stratum)):
            longest //= RATIO
        parts, segments, rows = keys.packed.parts(*keys.strata[stratum : stratum + 2]), [], 0
        for first, end in parts:
            begin, lane = codes.packed.place(first)
            segments.append((rows, lane + end - first, begin))
            rows += -(-(lane + end - first) // longest) * longest
        columns = _columns(keys)
        norms = torch.zeros(3, rows, device=keys.device)
        norms[0] = LOWEST
        targets = torch.zeros(rows, columns, dtype=torch.float16, device=keys.device)
        for (first, end), (row, _, _) in zip(parts, segments, strict=True):
            _, lane = codes.packed.place(first)
            for start, stop in _chunks(keys, first, end):
                place = slice(row + lane + start - first, row + lane + stop - first)
                norms[:2, place] = form.norms(*_split(keys, start, stop, form, bits))
                moments = keys.moments.columns(start, stop)  # (1 + 2T, m)
                norms[2, place] = moments[0].log2()
                means = (moments / moments[0]).T
                nearest = means.half()
                targets[place, : means.shape[1]] = nearest
                lacking = (means - nearest.float()) * 2.0**FINE_BITS
                targets[place, columns // 2 : columns // 2 + means.shape[1]] = lacking.half()
        return cls(
            form=form,
            bits=bits,
            shift=shift if bits == 16 else 0,
            inverse_unit=2.0**-shift,
            longest=longest,
            segments=tuple(segments),
            norms=norms,
            targets=targets,
            fine=bool(norms[1].any()),
            repeated=bool(norms[2].any()),
        )

    def spans(self, length: int, p_length: int) -> Tensor:
        """Return the spans of a length, a power of two that is at most `longest`: see `kernel`, (S, 2)."""
        return torch.tensor(
            [
                (begin + skipped * p_length, row + skipped)
                for row, count, begin in self.segments
                for skipped in range(0, count, length)
            ],
            device=self.norms.device,
        )


def row_bytes(keys: Keys) -> int:
    """Return the size of the rows of all keys, without padding."""
    return keys.count * (3 * 4 + 2 * _columns(keys))


def _columns(keys: Keys) -> int:
    """Return the number of columns of the targets: twice their number, and a size of tensor products."""
    return max(16, 2 << (2 * keys.t_length).bit_length())


def _format(keys: Keys, stratum: int, bits: int) -> tuple[Format, int]:
    """Return the format, and log2 of the unit in steps."""
    quantization, scale = keys.quantization, keys.scale(stratum)
    centre = (scale.centre - quantization.low) / quantization.step
    centre = centre.round().float() if bits < 32 else centre.float()
    shift = 0
    if bits > 8:
        largest = max(2.0**-100, _largest(keys, stratum, centre, math.inf))
        shift = math.ceil(math.log2(largest / LARGEST_UNITS))
        shift = max(1, shift) if bits == 16 else shift
    unit = 2.0**shift * quantization.step
    form = Format(
        centre=centre,
        origin=quantization.low + quantization.step * centre.double(),
        unit=unit,
        fractional=bits > 8,
        rounding=_FRACTION_ERROR if bits == 32 else 0.0,
        radius=2.0**-shift * _largest(keys, stratum, centre, 2),
        scale=scale,
    )
    return form, shift


def _split(keys: Keys, start: int, stop: int, form: Format, bits: int) -> tuple[Tensor, Tensor | None]:
    """Return keys as whole numbers and fractions of units, (P, m) each."""
    steps = keys.codes.columns(start, stop).float() - form.centre[:, None]
    if bits == 8:
        return steps, None
    x = steps * (keys.quantization.step / form.unit)
    whole = (x + 0.5).floor() if bits == 16 else x.round()
    return whole, x - whole


def _largest(keys: Keys, stratum: int, centre: Tensor, order: float) -> float:
    """Return the largest norm of a key less the centre, in steps."""
    return max(
        float(
            torch.linalg.vector_norm(
                keys.codes.columns(start, stop).float() - centre[:, None], ord=order, dim=0
            ).max()
        )
        for start, stop in _chunks(keys, *keys.strata[stratum : stratum + 2])
    )


def _chunks(keys: Keys, start: int, stop: int) -> Iterator[tuple[int, int]]:
    step = max(1, _CHUNK // keys.p_length)
    for first in range(start, stop, step):
        yield first, min(first + step, stop)
