"""How the numbers in a file encode intensities.

    element type                      intensity 0    intensity 1
    bool                              0              1
    unsigned, n ≤ 16 bits             0              2ⁿ − 1, for n bits as the file declares them
    float                             0              1
    other integers                    not known: the range has to be stated

A stated range replaces these.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument

__all__ = ["ROUNDING", "Scale", "divisor_hint"]

ROUNDING = 1e-5
"""Largest distance of a float from [0, 1] that counts as rounding."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The numbers that encode intensities 0 and 1.

    Examples
    --------
    >>> scale = Scale.of(np.dtype(np.uint16), bits=12)
    >>> scale.intensities(np.array([0, 819, 4095], np.uint16))
    array([0. , 0.2, 1. ], dtype=float32)
    >>> scale.numbers(np.array([-0.1, 0.2, 1.2], np.float32))
    array([   0,  819, 4095], dtype=uint16)
    """

    dtype: np.dtype[Any]
    """Element type, in the byte order of this machine."""
    bits: int
    """Number of bits of each number in the file."""
    black: float
    """The number that encodes intensity 0."""
    white: float
    """The number that encodes intensity 1, above `black`."""

    @classmethod
    def of(
        cls, dtype: np.dtype[Any], *, bits: int | None = None, stated: tuple[float, float] | None = None
    ) -> Self:
        """Return the scale of an element type.

        Parameters
        ----------
        dtype : dtype
            Element type of the decoded numbers.
        bits : int, optional
            Number of bits of each number in the file, by default those of the element type.
        stated : (float, float), optional
            The numbers that encode intensities 0 and 1, where the caller knows them.

        Raises
        ------
        InvalidArgument
            The element type is not a number, or its white is not known and not stated.
        """
        dtype = dtype.newbyteorder("=")
        bits = (1 if dtype.kind == "b" else 8 * dtype.itemsize) if bits is None else bits
        if dtype.kind not in "bfiu" or dtype.itemsize > 8:
            raise InvalidArgument(f"expected integers or floats, got {dtype}")
        if stated is not None:
            return cls(dtype, bits, *map(float, stated))
        if dtype.kind in "bf":
            return cls(dtype, bits, 0.0, 1.0)
        if dtype.kind == "u" and bits <= 16:
            return cls(dtype, bits, 0.0, 2.0**bits - 1)
        raise InvalidArgument(
            f"expected uint8, uint16 or float in [0, 1], got {dtype}, in which white may be any number; "
            "state its range, or convert it"
        )

    @property
    def span(self) -> float:
        """Difference of the numbers that encode intensities 1 and 0."""
        return self.white - self.black

    @property
    def native(self) -> bool:
        """Whether the numbers are uint8 or uint16 and use all of their range."""
        full = self.dtype.kind == "u" and self.bits == 8 * self.dtype.itemsize <= 16
        return full and (self.black, self.white) == (0, 2.0**self.bits - 1)

    def intensities(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return numbers as intensities: float32 if that tells the numbers apart, else float64."""
        small = self.dtype.itemsize <= (4 if self.dtype.kind == "f" else 2)
        kind = np.float32 if small else np.float64
        if (self.black, self.white) == (0, 1):
            return numbers.astype(kind, copy=False)
        shifted = numbers if self.black == 0 else numbers.astype(np.float64) - self.black
        intensities: NDArray[Any] = (shifted / kind(self.span)).astype(kind, copy=False)
        return intensities

    def numbers(self, intensities: NDArray[Any]) -> NDArray[Any]:
        """Return intensities as numbers; integers are rounded and clipped to what their bits can hold."""
        values = intensities
        if (self.black, self.white) != (0, 1):
            kind = np.float64 if self.dtype.itemsize > 2 or self.black else np.float32
            values = intensities * kind(self.span) + kind(self.black)
        if self.dtype.kind == "f":
            return values.astype(self.dtype, copy=False)
        if self.dtype.kind == "b":
            return np.asarray(values >= 0.5)
        low, high = (0, 2**self.bits - 1) if self.dtype.kind == "u" else _extremes(self.dtype)
        if self.bits <= 32:
            return np.asarray(np.rint(np.clip(values, low, high)).astype(self.dtype))
        # 2⁶⁴ − 1 is no float: the largest float that the type holds is below it.
        top = math.nextafter(float(high), 0)
        return np.asarray(np.rint(np.clip(values, float(low), top)).astype(self.dtype))


def _extremes(dtype: np.dtype[Any]) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def divisor_hint(high: float) -> str:
    """Return what to do about floats up to `high`, which is above 1.

    Examples
    --------
    >>> divisor_hint(254.0)
    'divide by 255'
    """
    for white in (255, 4095, 65535):
        if 2 < high <= white:
            return f"divide by {white}"
    return "rescale them"
