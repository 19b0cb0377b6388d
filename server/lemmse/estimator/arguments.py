"""Checks of what a caller asks for; each error names the argument, what was expected and what came."""

import operator
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.index.errors import InvalidArgument

__all__ = ["as_count", "as_image", "as_maps", "as_mode", "as_pixel", "as_sigma"]

MODES = ("auto", "exact", "topk")
MAPS = ("variance", "ess", "log_density")

SIGMA_RANGE = (1e-6, 1e6)
"""Below, float32 holds no noise in [0, 1]; above, every weight is the same."""
Y_MAX = 1e5
"""Largest |y|, times σ where that is above 1: squared distances beyond overflow in float32."""


def as_sigma(sigma: Any) -> float:
    """σ as a float within `SIGMA_RANGE`."""
    low, high = SIGMA_RANGE
    try:
        value = float(sigma)
    except (TypeError, ValueError) as error:
        raise InvalidArgument("sigma", f"expected a number, got {sigma!r}") from error
    if not low <= value <= high:
        raise InvalidArgument("sigma", f"expected a number in [{low:g}, {high:g}], got {value:g}")
    return value


def as_image(y: ArrayLike, channels: int, sigma: float) -> NDArray[np.float32]:
    """Y as a finite float32 array of shape (H, W, C)."""
    array = np.asarray(y)
    if not np.issubdtype(array.dtype, np.floating):
        raise InvalidArgument("y", f"expected floats with clean intensities in [0, 1], got {array.dtype}")
    wanted = "(H, W) or (H, W, 1)" if channels == 1 else f"(H, W, {channels})"
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise InvalidArgument("y", f"expected an image of shape {wanted}, got {array.shape}")
    limit = Y_MAX * max(1.0, sigma)
    # Of NaN no comparison is true.
    if not (np.abs(image) <= limit).all():
        what = "finite numbers" if not np.isfinite(image).all() else f"numbers within ±{limit:g}"
        raise InvalidArgument("y", f"expected {what}, got {image[~(np.abs(image) <= limit)][0]}")
    return image.astype(np.float32)


def as_mode(mode: Any) -> str:
    """One of `MODES`."""
    if mode not in MODES:
        raise InvalidArgument("mode", f"expected one of {', '.join(MODES)}, got {mode!r}")
    return str(mode)


def as_maps(maps: Collection[str]) -> frozenset[str]:
    """A set of names from `MAPS`."""
    for name in maps:
        if name not in MAPS:
            raise InvalidArgument("maps", f"expected names out of {', '.join(MAPS)}, got {name!r}")
    return frozenset(maps)


def as_count(argument: str, value: Any) -> int:
    """A whole number >= 1."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise InvalidArgument(argument, f"expected a whole number >= 1, got {value!r}") from error
    if count < 1:
        raise InvalidArgument(argument, f"expected a whole number >= 1, got {count}")
    return count


def as_pixel(pixel: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """A row and a column within the image."""
    height, width = shape[:2]
    try:
        row, column = (operator.index(x) for x in pixel)
    except (TypeError, ValueError) as error:
        raise InvalidArgument("pixel", f"expected (row, column), got {pixel!r}") from error
    if not (0 <= row < height and 0 <= column < width):
        raise InvalidArgument(
            "pixel",
            f"expected a row below {height} and a column below {width}, both >= 0, got ({row}, {column})",
        )
    return row, column
