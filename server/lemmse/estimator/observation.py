"""The measurement as the estimator takes it: y with the standard deviation of its noise at each pixel."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.contract.errors import InvalidArgument

__all__ = ["Observation", "as_observation"]

SIGMA_RANGE = (1e-6, 1e6)
"""Below, float32 holds no noise in [0, 1]; above, every weight is the same."""
Y_MAX = 1e5
"""Largest |y|, times σ where that is above 1: squared distances beyond overflow in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A checked measurement and its noise."""

    y: NDArray[np.float64]
    """The measurement, (H, W, C); 0 where nothing was observed."""
    sigma: float | NDArray[np.float64]
    """Standard deviation s of the noise, in intensities: one number if it is the same everywhere and
    everything was observed, else (H, W, C), ∞ where nothing was observed."""
    shape: tuple[int, ...]
    """Shape in which y was given, (H, W) or (H, W, C)."""

    @property
    def precision(self) -> Any:
        """λ = 1/s², a number or (H, W, C), 0 where nothing was observed."""
        return 1 / np.square(self.sigma)

    @property
    def is_white(self) -> bool:
        """Whether one σ applies to all of y."""
        return isinstance(self.sigma, float)

    @property
    def rms_sigma(self) -> float:
        """Root mean square of s where something was observed; 1 if nothing was."""
        observed = np.extract(np.isfinite(self.sigma), self.sigma)
        return float(np.sqrt(np.square(observed).mean())) if observed.size else 1.0


def as_observation(y: ArrayLike, sigma: Any, mask: ArrayLike | None, channels: int) -> Observation:
    """Return the observation of checked arguments.

    Parameters
    ----------
    y : float, (H, W) or (H, W, C)
        The measurement.
    sigma : float or array (H, W) or (H, W, C)
        Standard deviation of the noise.
    mask : array (H, W) or (H, W, C), optional
        0 or False where nothing was observed.
    channels : int
        Channels of the images of the index, C.

    Raises
    ------
    InvalidArgument
        An argument has the wrong type, shape or range.
    """
    image = _as_image(y, channels)
    s = _as_number(sigma) if np.ndim(sigma) == 0 else _as_map("sigma", sigma, image.shape)
    low, high = SIGMA_RANGE
    valid = np.less_equal(low, s) & np.less_equal(s, high)  # NaN is not valid
    if not valid.all():
        wrong = np.extract(~valid, s)[0]
        raise InvalidArgument.of("sigma", f"expected a number in [{low:g}, {high:g}], got {wrong:g}")
    observed = None if mask is None else _as_mask(mask, image.shape)
    _check_range(image, observed, Y_MAX * max(1.0, float(np.max(s))))
    if observed is not None:
        image, s = np.where(observed, image, 0.0), np.where(observed, s, np.inf)
    return Observation(image, s, np.shape(y))


def _check_range(image: NDArray[np.float64], observed: NDArray[np.bool_] | None, limit: float) -> None:
    """Raise InvalidArgument unless all observed numbers are finite and within ±limit."""
    wrong = ~(np.abs(image) <= limit)
    if observed is not None:
        wrong &= observed
    if wrong.any():
        finite = np.isfinite(image if observed is None else image[observed]).all()
        what = f"numbers within ±{limit:g}" if finite else "finite numbers"
        raise InvalidArgument.of("y", f"expected {what}, got {image[wrong][0]}")


def _as_image(y: ArrayLike, channels: int) -> NDArray[np.float64]:
    array = np.asarray(y)
    if not np.issubdtype(array.dtype, np.floating):
        raise InvalidArgument.of("y", f"expected floats with clean intensities in [0, 1], got {array.dtype}")
    expected = "(H, W) or (H, W, 1)" if channels == 1 else f"(H, W, {channels})"
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise InvalidArgument.of("y", f"expected an image of shape {expected}, got {array.shape}")
    return image.astype(np.float64)


def _as_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of("sigma", f"expected a number, got {value!r}") from error


def _as_mask(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    values = _as_map("mask", mask, shape)
    if not np.isfinite(values).all():
        raise InvalidArgument.of(
            "mask", "expected booleans, or numbers that are 0 where nothing was observed"
        )
    observed: NDArray[np.bool_] = values != 0
    return observed


def _as_map(argument: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return an array (H, W) or (H, W, C) broadcast to (H, W, C)."""
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise InvalidArgument.of(argument, f"expected numbers, got {array.dtype}")
    if array.shape not in (shape, shape[:2], (*shape[:2], 1)):
        raise InvalidArgument.of(argument, f"expected the shape {shape[:2]} or {shape}, got {array.shape}")
    return np.broadcast_to(array.reshape(*shape[:2], -1), shape).astype(np.float64)
