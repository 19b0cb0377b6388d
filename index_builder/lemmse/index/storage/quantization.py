"""Lossless quantization of keys: v_i = low + step · q_i with integers q_i.

Keys of 8-bit pixels take one byte per element. Keys of 16-bit pixels take two bytes, and so do 8-bit pixels
after the mean of their patch is subtracted, which are multiples of 1/255 divided by the number of pixels. The
only error is float32 rounding. All other keys are stored as float32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Quantization", "quantizations"]

_ROUNDING = 2.0**-23
"""Largest accepted difference between a float32 key and its quantized value."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """A linear quantization of keys."""

    dtype: np.dtype[Any]
    """Element type of q: uint8, int16 or float32."""
    step: float
    """Step between values."""
    low: float
    """Value of q = 0."""

    def fits(self, v: NDArray[np.float32]) -> bool:
        """Return whether keys, (n, P), are quantized without loss."""
        if self.dtype.kind == "f":
            return True
        q = np.rint((v - self.low) / self.step)
        limits = np.iinfo(self.dtype)
        if q.min() < limits.min or q.max() > limits.max:
            return False
        return bool(np.abs(self.low + self.step * q - v).max() <= _ROUNDING)

    def steps(self, v: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return keys or queries, (n, P), in units of the step, without rounding."""
        if self.dtype.kind == "f":
            return np.asarray(v, np.float32)
        return ((v - self.low) / self.step).astype(np.float32)

    def encode(self, v: NDArray[np.float32]) -> NDArray[Any]:
        """Return the quantized keys q of keys v, (n, P)."""
        return v if self.dtype.kind == "f" else np.rint((v - self.low) / self.step).astype(self.dtype)

    def decode(self, q: NDArray[Any]) -> NDArray[np.float32]:
        """Return the keys v of quantized keys q, (n, P)."""
        return np.asarray(q if self.dtype.kind == "f" else self.low + self.step * q, np.float32)


def quantizations(pixels: int) -> tuple[Quantization, ...]:
    """Return the quantizations for patches of this many pixels, smallest first; the last one fits all keys.

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
