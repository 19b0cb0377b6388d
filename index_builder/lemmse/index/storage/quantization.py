"""Keys in as few bytes as they take: whole numbers q of steps of one size, v_i = low + step q_i.

Where keys are pixels of 8 bits, q are these pixels in a byte each; pixels of 16 bits take two bytes, and so
do those of 8 bits less the mean of a patch, which are multiples of 1/255 over its number of pixels. Nothing
is lost but what float32 would round. All other keys are kept in float32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Quantization", "quantizations"]

_ROUNDING = 2.0**-23
"""What float32 keys may be off their steps by."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """How keys are stored."""

    dtype: np.dtype[Any]
    """Type of the numbers: uint8, int16 or float32."""
    step: float
    """What they count."""
    low: float
    """What they are counted from."""

    def fits(self, v: NDArray[np.float32]) -> bool:
        """Whether keys (n, P) can be stored so."""
        if self.dtype.kind == "f":
            return True
        q = np.rint((v - self.low) / self.step)
        limits = np.iinfo(self.dtype)
        if q.min() < limits.min or q.max() > limits.max:
            return False
        return bool(np.abs(self.low + self.step * q - v).max() <= _ROUNDING)

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


def quantizations(pixels: int) -> tuple[Quantization, ...]:
    """How keys of so many pixels may be stored, the shortest first; all keys fit the last.

    Examples
    --------
    >>> v = np.float32([[0, 51 / 255], [1, 2 / 255]])
    >>> quantization = next(quantization for quantization in quantizations(1) if quantization.fits(v))
    >>> quantization.encode(v)
    array([[  0,  51],
           [255,   2]], dtype=uint8)
    """
    byte, two, four = np.dtype(np.uint8), np.dtype(np.int16), np.dtype(np.float32)
    return (
        Quantization(byte, 1 / 255, 0.0),
        Quantization(two, 1 / 65_535, 2**15 / 65_535),
        Quantization(two, 1 / (255 * pixels), 0.0),
        Quantization(four, 1.0, 0.0),
    )
