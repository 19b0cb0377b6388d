"""The arguments of a measurement: their types, and their conversion to arrays in intensities.

Integers encode intensities in steps of 1/255 (uint8) or 1/65535 (uint16), unless a range states the numbers
for black and white.
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.contract.arrays import as_numpy
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.lines import one_line
from lemmse.contract.tensors import FloatArray

__all__ = [
    "AUTO",
    "GAUSSIAN",
    "NAN",
    "NOISES",
    "POISSON_GAUSSIAN",
    "Gain",
    "Mask",
    "Range",
    "Sigma",
    "as_dark",
    "as_image",
    "as_mask",
    "as_range",
    "as_sigma",
    "both_masks",
    "checked_vector",
    "require_fit",
]

AUTO: Literal["auto"] = "auto"
"""The σ that is to be estimated."""

NAN = ("error", "mask")
"""What NaN in y means: a mistake, or a pixel that was not observed."""

GAUSSIAN, POISSON_GAUSSIAN = NOISES = ("gaussian", "poisson-gaussian")
"""Kinds of noise: of a stated σ; or of variance gain · x + σ² for a pixel of intensity x."""

Gain = float | Literal["auto"]
"""Gain of Poisson-Gaussian noise, in intensities, or "auto"."""

Range = tuple[float, float] | None
"""The numbers of an image that stand for black and white; None for those of its type."""

Sigma = float | ArrayLike
"""Noise standard deviation in intensities: a number, a map (H, W) or (H, W, C), or of a volume, or "auto"."""

Mask = ArrayLike | None
"""Mask, of the same shapes, nonzero where a pixel was observed; None if all pixels were observed."""

_LARGEST_NOISE = 1e6
"""Largest gain, and σ in the dark."""
_LARGEST_NUMBER = 1e20
"""Largest magnitude in a vector: a product with a derivative, 10¹² times as large at most, is a float32."""


def as_image(y: ArrayLike, range: Range) -> tuple[FloatArray, float, float]:
    """Return an image in intensities, float32 or float64, and its black and white level."""
    array = _as_array("y", y)
    floats = array.dtype.kind == "f"
    if range is not None:
        if array.dtype.kind not in "fiu":
            raise InvalidArgument.of("y", f"expected numbers, got {array.dtype}")
    elif not floats and (array.dtype.kind != "u" or array.dtype.itemsize > 2):
        raise InvalidArgument.of(
            "y",
            f"expected floats in [0, 1], uint8 or uint16, got {array.dtype}; for others state their range",
        )
    if array.ndim not in (2, 3, 4) or array.size == 0:
        raise InvalidArgument.of(
            "y",
            f"expected an image of shape (H, W) or (H, W, C), or a volume (D, H, W) or (D, H, W, C), got "
            f"{array.shape}",
        )
    if range is not None:
        black, white = range
        small = array.dtype.itemsize <= (4 if floats else 2)
        image: NDArray[np.float64] = (array.astype(np.float64) - black) / (white - black)
        return image.astype(np.float32) if small else image, black, white
    if floats:
        return _as_floats(array), 0.0, 1.0
    white_level = float(np.iinfo(array.dtype).max)
    return (array / np.float32(white_level)).astype(np.float32, copy=False), 0.0, white_level


def as_range(range: Any) -> Range:
    """Return the numbers for black and white, or None."""
    if range is None:
        return None
    try:
        low, high = map(float, range)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of("range", f"expected two numbers, (low, high), got {range!r}") from error
    if not -math.inf < low < high < math.inf:
        raise InvalidArgument.of("range", f"expected finite low < high, got {low:g} and {high:g}")
    return low, high


def as_dark(argument: str, value: Any) -> float | Literal["auto"]:
    """Return the gain, or the σ in the dark, of Poisson-Gaussian noise."""
    if isinstance(value, str) and value == AUTO:
        return AUTO
    expected = "expected a number or auto for poisson-gaussian noise"
    if isinstance(value, np.ndarray) and value.ndim:
        raise InvalidArgument.of(argument, f"{expected}, got an array of shape {value.shape}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of(argument, f"{expected}, got {value!r}") from error
    if not 0 <= number <= _LARGEST_NOISE:
        raise InvalidArgument.of(argument, f"expected a number in [0, {_LARGEST_NOISE:g}], got {number:g}")
    return number


def as_sigma(sigma: Any, shape: tuple[int, ...]) -> float | FloatArray | Literal["auto"]:
    """Return σ as one number, as "auto", or as a map that fits an image of this shape."""
    if isinstance(sigma, str) and sigma == AUTO:
        return AUTO
    array = _as_array("sigma", sigma)
    if array.ndim == 0:
        try:
            return float(sigma)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgument.of("sigma", f"expected a number, a map or auto, got {sigma!r}") from error
    if array.dtype.kind not in "fiu":
        raise InvalidArgument.of("sigma", f"expected numbers, got {array.dtype}")
    require_fit("sigma", array.shape, shape)
    return _as_floats(array)


def as_mask(mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return a mask that is True where a pixel was observed."""
    if mask is None:
        return None
    array = _as_array("mask", mask)
    if array.dtype.kind not in "bfiu" or (array.dtype.kind == "f" and np.isnan(array).any()):
        what = "NaN" if array.dtype.kind == "f" else array.dtype
        raise InvalidArgument.of("mask", f"expected booleans or numbers, not 0 where observed, got {what}")
    require_fit("mask", array.shape, shape)
    return array.astype(np.bool_)


def both_masks(mask: NDArray[np.bool_] | None, other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where both masks are True, the second of which has the shape of the image."""
    if mask is None:
        return other
    if mask.ndim < other.ndim:
        mask = mask[..., None]
    elif mask.ndim > other.ndim:
        mask = mask[..., 0]
    return mask & other


def require_fit(argument: str, got: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise InvalidArgument unless a map has the shape of y, or one value for each pixel."""
    pixels = shape[:2] if len(shape) == 2 else shape[:-1]  # of an image, or of a volume with channels
    if got not in (shape, pixels, (*pixels, 1)):
        wanted = " or ".join(dict.fromkeys(map(str, (pixels, shape))))
        raise InvalidArgument.of(argument, f"expected shape {wanted}, that of y, got {got}")


def _as_array(argument: str, value: ArrayLike) -> NDArray[Any]:
    if argument != "y" and np.ma.is_masked(value):
        raise InvalidArgument.of(argument, "expected an array, got one with masked values; fill them")
    value = as_numpy(argument, value)
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgument.of(
            argument, f"expected an array, got a {type(value).__name__}: {one_line(error)}"
        ) from error


def _as_floats(array: NDArray[Any]) -> FloatArray:
    """Return the array as float32 if that represents the numbers, else as float64."""
    if array.dtype.kind == "f" and array.dtype.itemsize <= 4:
        return array.astype(np.float32, copy=False)
    return array.astype(np.float64, copy=False)


def checked_vector(vector: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    """Return a vector of numbers for the pixels of a reconstruction, as floats.

    Parameters
    ----------
    vector : array
        The numbers.
    shape : tuple of int
        Shape of y, which the vector must have.

    Raises
    ------
    InvalidArgument
        The vector has another type or shape, or a number that is too large.
    """
    array = _as_array("vector", vector)
    if array.dtype.kind not in "fiu":
        raise InvalidArgument.of("vector", f"expected numbers, got {array.dtype}")
    if array.shape != shape:
        raise InvalidArgument.of("vector", f"expected shape {shape}, that of y, got {array.shape}")
    numbers = _as_floats(array)
    wrong = ~(np.abs(numbers) <= _LARGEST_NUMBER)  # NaN is wrong
    if wrong.any():
        expected = f"expected numbers within ±{_LARGEST_NUMBER:g}"
        raise InvalidArgument.of("vector", f"{expected}, got {numbers[wrong][0]}")
    return numbers
