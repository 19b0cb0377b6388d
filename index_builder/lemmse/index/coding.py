"""Keys in few bytes: whole numbers q of steps of one size, from a number of their own for each coordinate,

    v_i = low_i + step q_i.

Where keys are pixels of 8 bits, q are these pixels in a byte each, and nothing is lost; those of 16 bits take
two. Other keys of images whose pixels are whole numbers, blurred ones or such without their level, are
rounded to 65 535 steps of the widest range, far finer than the pixels were to begin with. What comes from
images of floating-point numbers is kept as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coding", "Span"]

_GRIDS = (255, 65_535)
"""Steps from 0 to 1 of pixels of 8 and of 16 bits."""
_NO_GRID = 0
_STEPS = 65_534
"""Steps of the widest range in 16 bits, as many on either side of its middle."""
_WIDEST = 2.0
"""Range that these are fine enough for."""
_TINY = 1e-6
"""Instead of the range of equal keys, to be divided by."""


@dataclass(frozen=True, slots=True)
class Span:
    """What the coordinates of some keys are within, and whether they lie on a grid."""

    low: NDArray[np.float32]
    """Least of each coordinate, (P,)."""
    high: NDArray[np.float32]
    """Greatest of each coordinate, (P,)."""
    grid: int
    """Steps from 0 to 1 of which all coordinates are multiples; 0 if they are of none."""

    @classmethod
    def of(cls, v: NDArray[np.float32]) -> "Span":
        """The span of keys (n, P), n >= 1."""
        low, high = v.min(axis=0), v.max(axis=0)
        inside = low.min() >= 0 and high.max() <= 1
        grid = next((grid for grid in _GRIDS if inside and _lies_on(v, grid)), _NO_GRID)
        return cls(low, high, grid)

    @classmethod
    def merge(cls, spans: "Sequence[Span]") -> "Span":
        """The span of the keys of several."""
        grids = [span.grid for span in spans]  # every multiple of 1/255 is one of 1/65535
        return cls(
            np.min([span.low for span in spans], axis=0),
            np.max([span.high for span in spans], axis=0),
            _NO_GRID if _NO_GRID in grids else max(grids),
        )


@dataclass(frozen=True, slots=True)
class Coding:
    """How keys are stored."""

    low: NDArray[np.float64]
    """What the numbers of each coordinate are counted from, (P,)."""
    step: float
    """What they count."""
    dtype: np.dtype[Any]
    """What they are stored as: uint8, int16 or float32."""
    error: float
    """What a coordinate is off by at most."""

    @classmethod
    def of(cls, span: Span, pixels: np.dtype[Any]) -> "Coding":
        """How keys of a span are stored, which were cut from images with such pixels."""
        zeros = np.zeros(len(span.low))
        if span.grid == _GRIDS[0]:
            return cls(zeros, 1 / span.grid, np.dtype(np.uint8), 0.0)
        if span.grid == _GRIDS[1]:
            return cls(zeros + 2**15 / span.grid, 1 / span.grid, np.dtype(np.int16), 0.0)
        low, high = span.low.astype(np.float64), span.high.astype(np.float64)
        widest = float((high - low).max())
        if pixels.kind == "u" and widest <= _WIDEST:
            step = max(widest, _TINY) / _STEPS
            return cls((low + high) / 2, step, np.dtype(np.int16), step / 2)
        return cls.plain(len(zeros))

    @classmethod
    def plain(cls, length: int) -> "Coding":
        """Keys of P numbers as they are."""
        return cls(np.zeros(length), 1.0, np.dtype(np.float32), 0.0)

    def steps(self, v: NDArray[np.floating]) -> NDArray[np.float32]:
        """Keys or queries (n, P) in steps, not rounded."""
        if self.dtype.kind == "f":
            return np.asarray(v, np.float32)
        return ((v - self.low) / self.step).astype(np.float32)

    def encode(self, v: NDArray[np.float32]) -> NDArray[Any]:
        """The numbers that keys (n, P) are stored as."""
        return v if self.dtype.kind == "f" else np.rint((v - self.low) / self.step).astype(self.dtype)

    def decode(self, q: NDArray[Any]) -> NDArray[np.float32]:
        """The keys of numbers (n, P)."""
        return np.asarray(q if self.dtype.kind == "f" else self.low + self.step * q, np.float32)


def _lies_on(v: NDArray[np.float32], grid: int) -> bool:
    """Whether all numbers are multiples of 1/grid, as float32 has them."""
    return bool((np.rint(v * np.float32(grid)) / np.float32(grid) == v).all())
