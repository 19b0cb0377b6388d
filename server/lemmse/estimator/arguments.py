"""Checks of what a caller asks for; each error names the argument, what was expected and what came."""

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.contract.errors import InvalidArgument

__all__ = [
    "AGGREGATES",
    "ERRORS",
    "ESTIMATORS",
    "MAPS",
    "MODES",
    "QUALITIES",
    "Measurement",
    "as_accuracy",
    "as_aggregate",
    "as_bandwidth",
    "as_count",
    "as_error",
    "as_estimator",
    "as_gaussian_share",
    "as_maps",
    "as_measurement",
    "as_mode",
    "as_pixel",
    "as_quality",
]

MODES = ("auto", "exact", "topk", "hybrid")
ESTIMATORS = ("le-mmse", "e-mmse", "mmse")
MAPS = ("variance", "ess", "log_density", "error")
ERRORS = ("estimated", "certified")
AGGREGATES = ("centre", "overlap")
QUALITIES = ("paper", "best")

SIGMA_RANGE = (1e-6, 1e6)
"""Below, float32 holds no noise in [0, 1]; above, every weight is the same."""
Y_MAX = 1e5
"""Largest |y|, times σ where that is above 1: squared distances beyond overflow in float32."""

ACCURACY_MAX = 120.0
"""Agreement in dB beyond which float32 results cannot differ."""

BANDWIDTH_MAX = 1e6
"""As for σ: above, every weight is the same."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured, and how precisely."""

    y: NDArray[np.float64]
    """The measurement, (H, W, C); 0 where nothing was observed."""
    sigma: float | None
    """Noise standard deviation, where it is one for all and everything was observed."""
    precision: NDArray[np.float64]
    """1/s² of the noise, and 0 where nothing was observed, (H, W, C)."""


def as_measurement(y: ArrayLike, sigma: Any, mask: ArrayLike | None, channels: int) -> Measurement:
    """Check y, σ and the mask, and put them together."""
    image = _as_image(y, channels)
    one = np.ndim(sigma) == 0
    s = np.full(image.shape, _as_number(sigma)) if one else _as_map("sigma", sigma, image.shape)
    low, high = SIGMA_RANGE
    if not ((s >= low) & (s <= high)).all():  # of NaN no comparison is true
        wrong = s[~((s >= low) & (s <= high))][0]
        raise InvalidArgument.of("sigma", f"expected a number in [{low:g}, {high:g}], got {wrong:g}")
    observed = np.ones(image.shape, bool)
    if mask is not None:
        values = _as_map("mask", mask, image.shape)
        if not np.isfinite(values).all():
            raise InvalidArgument.of(
                "mask", "expected booleans, or numbers that are 0 where nothing was observed"
            )
        observed = values != 0
    limit = Y_MAX * max(1.0, float(s.max()))
    wrong = observed & ~(np.abs(image) <= limit)
    if wrong.any():
        what = "finite numbers" if not np.isfinite(image[observed]).all() else f"numbers within ±{limit:g}"
        raise InvalidArgument.of("y", f"expected {what}, got {image[wrong][0]}")
    return Measurement(
        y=np.where(observed, image, 0.0),
        sigma=float(s.flat[0]) if one and mask is None else None,
        precision=np.where(observed, 1 / s**2, 0.0),
    )


def _as_image(y: ArrayLike, channels: int) -> NDArray[np.float64]:
    array = np.asarray(y)
    if not np.issubdtype(array.dtype, np.floating):
        raise InvalidArgument.of("y", f"expected floats with clean intensities in [0, 1], got {array.dtype}")
    wanted = "(H, W) or (H, W, 1)" if channels == 1 else f"(H, W, {channels})"
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise InvalidArgument.of("y", f"expected an image of shape {wanted}, got {array.shape}")
    return image.astype(np.float64)


def _as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of("sigma", f"expected a number, got {value!r}") from error


def _as_map(argument: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """An array (H, W) or (H, W, C) as one of y's shape (H, W, C)."""
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise InvalidArgument.of(argument, f"expected numbers, got {array.dtype}")
    if array.shape not in (shape, shape[:2], (*shape[:2], 1)):
        raise InvalidArgument.of(argument, f"expected the shape {shape[:2]} or {shape}, got {array.shape}")
    return np.broadcast_to(array.reshape(*shape[:2], -1), shape).astype(np.float64)


def as_mode(mode: Any) -> str:
    """One of `MODES`."""
    return _as_one_of("mode", mode, MODES)


def as_estimator(estimator: Any) -> str:
    """One of `ESTIMATORS`."""
    return _as_one_of("estimator", estimator, ESTIMATORS)


def as_maps(maps: Collection[str]) -> frozenset[str]:
    """A set of names from `MAPS`."""
    for name in maps:
        if name not in MAPS:
            raise InvalidArgument.of("maps", f"expected names out of {', '.join(MAPS)}, got {name!r}")
    return frozenset(maps)


def as_error(error: Any) -> str:
    """One of `ERRORS`."""
    return _as_one_of("error", error, ERRORS)


def as_aggregate(aggregate: Any) -> str:
    """One of `AGGREGATES`."""
    return _as_one_of("aggregate", aggregate, AGGREGATES)


def as_quality(quality: Any) -> str:
    """One of `QUALITIES`."""
    return _as_one_of("quality", quality, QUALITIES)


def _as_one_of(argument: str, value: Any, names: tuple[str, ...]) -> str:
    if value not in names:
        raise InvalidArgument.of(argument, f"expected one of {', '.join(names)}, got {value!r}")
    return str(value)


def as_accuracy(value: Any) -> float:
    """An agreement in dB."""
    try:
        accuracy = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of("accuracy_db", f"expected a number of dB, got {value!r}") from error
    if not 0 < accuracy <= ACCURACY_MAX:
        raise InvalidArgument.of("accuracy_db", f"expected dB in (0, {ACCURACY_MAX:g}], got {accuracy:g}")
    return accuracy


def as_bandwidth(value: Any) -> float:
    """A standard deviation τ, which may be 0."""
    return _as_number_to("bandwidth", value, BANDWIDTH_MAX)


def as_gaussian_share(value: Any) -> float:
    """A share of the prior."""
    return _as_number_to("gaussian_share", value, 1.0)


def _as_number_to(argument: str, value: Any, most: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of(argument, f"expected a number, got {value!r}") from error
    if not 0 <= number <= most:
        raise InvalidArgument.of(argument, f"expected a number in [0, {most:g}], got {number:g}")
    return number


def as_count(argument: str, value: Any) -> int:
    """A whole number >= 1."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise InvalidArgument.of(argument, f"expected a whole number >= 1, got {value!r}") from error
    if count < 1:
        raise InvalidArgument.of(argument, f"expected a whole number >= 1, got {count}")
    return count


def as_pixel(pixel: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """A row and a column within the image."""
    height, width = shape[:2]
    try:
        row, column = (operator.index(x) for x in pixel)
    except (TypeError, ValueError) as error:
        raise InvalidArgument.of("pixel", f"expected (row, column), got {pixel!r}") from error
    if not (0 <= row < height and 0 <= column < width):
        raise InvalidArgument.of(
            "pixel",
            f"expected a row below {height} and a column below {width}, both >= 0, got ({row}, {column})",
        )
    return row, column
