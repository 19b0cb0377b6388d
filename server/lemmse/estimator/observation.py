"""The validated measurement: y with the standard deviation of its noise at each pixel."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.tensors import FloatArray

__all__ = ["Observation", "as_observation"]

T = TypeVar("T", bound=np.generic)

SIGMA_RANGE = (1e-6, 1e6)
"""Range of σ: below it, float32 cannot represent the noise in [0, 1]; above it, all weights are equal."""
Y_MAX = 1e6
"""Largest |y|, multiplied by σ if σ > 1; beyond it, even float64 would not tell near keys from far ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A validated measurement and its noise."""

    y: NDArray[np.float64]
    """The measurement, float64, (H, W, C); 0 where nothing was observed."""
    sigma: float | NDArray[np.float64]
    """Standard deviation s of the noise, in intensities: one number if it is the same everywhere and
    everything was observed, otherwise (H, W, C), ∞ where nothing was observed."""
    shape: tuple[int, ...]
    """Shape of the original y, (H, W) or (H, W, C)."""

    @property
    def precision(self) -> Any:
        """Precision λ = 1/s², a number or (H, W, C), 0 where nothing was observed."""
        return 1 / np.square(self.sigma)

    @property
    def is_white(self) -> bool:
        """Whether one σ applies to all pixels of y."""
        return isinstance(self.sigma, float)

    @property
    def rms_sigma(self) -> float:
        """Root mean square of s over the observed pixels; 1 if nothing was observed."""
        observed = np.extract(np.isfinite(self.sigma), self.sigma)
        return float(np.sqrt(np.square(observed).mean())) if observed.size else 1.0


def as_observation(measurement: Measurement, channels: int) -> Observation:
    """Return the observation of a measurement, for an index of images with `channels` channels.

    Raises
    ------
    InvalidArgument
        The number of channels differs, or a value of y or sigma is out of range.
    """
    image = _with_channels(measurement.y, channels)
    if isinstance(measurement.sigma, str) or measurement.gain is not None:
        raise TypeError("expected a measurement whose noise is known")
    s: float | NDArray[np.float64]
    if isinstance(measurement.sigma, float):
        s = measurement.sigma
    else:
        s = _broadcast(measurement.sigma, image.shape).astype(np.float64)
    low, high = SIGMA_RANGE
    valid = np.less_equal(low, s) & np.less_equal(s, high)  # NaN is not valid
    if not valid.all():
        wrong = np.extract(~valid, s)[0]
        raise InvalidArgument.of("sigma", f"expected a number in [{low:g}, {high:g}], got {wrong:g}")
    observed = None if measurement.mask is None else _broadcast(measurement.mask, image.shape)
    _check_range(image, observed, Y_MAX * max(1.0, float(np.max(s))))
    if observed is not None:
        image, s = np.where(observed, image, 0.0), np.where(observed, s, np.inf)
    return Observation(image, s, measurement.y.shape)


def _check_range(image: NDArray[np.float64], observed: NDArray[np.bool_] | None, limit: float) -> None:
    """Raise InvalidArgument unless all observed numbers are finite and within ±limit."""
    wrong = ~(np.abs(image) <= limit)
    if observed is not None:
        wrong &= observed
    if wrong.any():
        finite = np.isfinite(image if observed is None else image[observed]).all()
        what = f"numbers within ±{limit:g}" if finite else "finite numbers"
        raise InvalidArgument.of("y", f"expected {what}, got {image[wrong][0]}")


def _with_channels(y: FloatArray, channels: int) -> NDArray[np.float64]:
    """Return an image (H, W) or (H, W, C) as (H, W, C)."""
    image = y[..., None] if y.ndim == 2 else y
    if image.shape[2] != channels:
        expected = "(H, W) or (H, W, 1)" if channels == 1 else f"(H, W, {channels})"
        raise InvalidArgument.of("y", f"expected an image of shape {expected}, got {y.shape}")
    return image.astype(np.float64)


def _broadcast(values: NDArray[T], shape: tuple[int, ...]) -> NDArray[T]:
    """Return a map (H, W), (H, W, 1) or (H, W, C) as (H, W, C)."""
    return np.broadcast_to(values.reshape(*shape[:2], -1), shape)
