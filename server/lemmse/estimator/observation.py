"""The validated measurement: y with the standard deviation of its noise at each pixel."""

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.tensors import FloatArray
from lemmse.estimator.cancellation import Cancel, never, raise_if_cancelled
from lemmse.index import Index
from lemmse.index.ranges import row_slices

__all__ = ["Observation", "as_observation", "observe"]

T = TypeVar("T", bound=np.generic)

SIGMA_RANGE = (1e-6, 1e6)
"""Range of σ: below it, float32 cannot represent the noise in [0, 1]; above it, all weights are equal."""
Y_MAX = 1e6
"""Largest |y|, multiplied by σ if σ > 1; beyond it, even float64 would not tell near keys from far ones."""
_BLOCK = 1 << 17
"""Numbers that are validated between two polls: they fit into the cache of a core."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A validated measurement and its noise."""

    y: NDArray[np.float64]
    """The measurement, float64, (D, H, W, C), D = 1 for an image; 0 where nothing was observed."""
    sigma: float | NDArray[np.float64]
    """Standard deviation s of the noise, in intensities: one number if it is the same everywhere and
    everything was observed, otherwise (D, H, W, C), ∞ where nothing was observed."""

    @property
    def pixels(self) -> int:
        """Number of pixels, D·H·W."""
        return math.prod(self.y.shape[:3])

    @property
    def precision(self) -> Any:
        """Precision λ = 1/s², a number or (D, H, W, C), 0 where nothing was observed."""
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


def observe(index: Index, measurement: Measurement, cancelled: Cancel = never) -> Observation:
    """Return the observation of a measurement for an index, see `as_observation`."""
    manifest = index.manifest
    return as_observation(measurement, manifest.channels, cancelled, volume=manifest.axes == 3)


def as_observation(
    measurement: Measurement, channels: int, cancelled: Cancel = never, *, volume: bool = False
) -> Observation:
    """Return the observation of a measurement, for an index of images, or volumes, with `channels` channels.

    Parameters
    ----------
    measurement : Measurement
        The measurement.
    channels : int
        Number of channels of the images of the index.
    cancelled : callable
        Polled between blocks of rows.

    Raises
    ------
    InvalidArgument
        The axes or the number of channels differ, or a value of y or sigma is out of range.
    Cancelled
        `cancelled()` was true.
    """
    y, sigma, mask = _planes(measurement.y, channels, volume=volume), measurement.sigma, measurement.mask
    if isinstance(sigma, str) or measurement.gain is not None:
        raise TypeError("expected a measurement whose noise is known")
    s: float | NDArray[np.float64] = sigma if isinstance(sigma, float) else sigma.astype(np.float64)
    low, high = SIGMA_RANGE
    valid = np.less_equal(low, s) & np.less_equal(s, high)  # NaN is not valid
    if not valid.all():
        wrong = np.extract(~valid, s)[0]
        raise InvalidArgument.of("sigma", f"expected a number in [{low:g}, {high:g}], got {wrong:g}")
    limit = Y_MAX * max(1.0, float(np.max(s)))
    if not isinstance(s, float):
        s = _broadcast("sigma", s, y.shape)
    observed = None if mask is None else _broadcast("mask", mask, y.shape)
    image = np.empty(y.shape)
    for plane, rows in product(range(len(y)), row_slices(y.shape[1], max(1, _BLOCK // y[0, 0].size))):
        raise_if_cancelled(cancelled)
        block = image[plane, rows]
        seen = None if observed is None else observed[plane, rows]
        block[...] = y[plane, rows]
        _check_range(block, seen, limit)
        if seen is not None:
            block[~seen] = 0.0
    return Observation(image, s if observed is None else np.where(observed, s, np.inf))


def _check_range(image: NDArray[np.float64], observed: NDArray[np.bool_] | None, limit: float) -> None:
    """Raise InvalidArgument unless all observed numbers are finite and within ±limit."""
    wrong = ~(np.abs(image) <= limit)
    if observed is not None:
        wrong &= observed
    if wrong.any():
        finite = np.isfinite(image if observed is None else image[observed]).all()
        what = f"numbers within ±{limit:g}" if finite else "finite numbers"
        raise InvalidArgument.of("y", f"expected {what}, got {image[wrong][0]}")


def _planes(y: FloatArray, channels: int, *, volume: bool) -> FloatArray:
    """Return an image (H, W) or (H, W, C), or a volume (D, H, W) or (D, H, W, C), as (D, H, W, C)."""
    axes = 3 if volume else 2
    full = y[..., None] if y.ndim == axes else y
    if full.ndim != axes + 1 or full.shape[-1] != channels:
        what, sizes = ("a volume", "D, H, W") if volume else ("an image", "H, W")
        expected = f"({sizes}) or ({sizes}, 1)" if channels == 1 else f"({sizes}, {channels})"
        raise InvalidArgument.of("y", f"expected {what} of shape {expected}, got {y.shape}")
    return full if volume else full[None]


def _broadcast(argument: str, values: NDArray[T], shape: tuple[int, ...]) -> NDArray[T]:
    """Return a map without channels, with one or with C of them, as (D, H, W, C)."""
    if values.size not in (pixels := math.prod(shape[:3]), pixels * shape[3]):
        raise InvalidArgument.of(
            argument, f"expected shape {shape[:3]} or {shape}, that of the volume, got {values.shape}"
        )
    return np.broadcast_to(values.reshape(*shape[:3], -1), shape)
