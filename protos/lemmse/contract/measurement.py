"""A measurement: the image y, the standard deviation σ of its noise, and the mask of observed pixels.

An image has the axes (H, W) or (H, W, C), a volume (D, H, W) or (D, H, W, C). An array with three axes may be
either: the index that answers decides. Both are floats in intensities, [0, 1], or integers that encode them
in steps of 1/255 (uint8) or 1/65535 (uint16), unless a range states the numbers for black and white. Numbers
are converted to intensities here; results are scaled back by `Measurement.black_level` and `white_level`.
All may be arrays of other libraries; results are of that of y.

σ may be "auto": to be estimated from y where the index is. Poisson-Gaussian noise has a gain besides; its
standard deviation depends on the clean image, and is found where the index is.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.contract.arrays import Restore, require_aligned, restorer
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement_arguments import (
    AUTO,
    GAUSSIAN,
    NAN,
    NOISES,
    as_dark,
    as_image,
    as_mask,
    as_range,
    as_sigma,
    both_masks,
)
from lemmse.contract.results import NoiseEstimate, Result
from lemmse.contract.tensors import FloatArray, WireArray

__all__ = ["Measurement"]

_COUNTS = 0.375
"""Intensity that is added to a clean image for the variance of its noise, in units of the gain (Anscombe)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """A measured image or volume with its noise level and mask; `checked` validates its arguments.

    Examples
    --------
    >>> m = Measurement.checked(np.array([[0, 51], [102, 255]], np.uint8), sigma=0.1, mask=[[0, 1], [1, 1]])
    >>> m.y, m.white_level
    (array([[0. , 0.2], [0.4, 1. ]], dtype=float32), 255.0)
    """

    y: FloatArray
    """The measurement in intensities, float32 or float64, (H, W), (H, W, C) or (D, H, W), or (D, H, W, C)."""
    white_level: float
    """The value that encodes intensity 1 in the original image: 1, 255, 65535, or what its range states."""
    sigma: float | FloatArray | Literal["auto"]
    """Noise standard deviation in intensities: one number, a map of y's shape, or without channels, or
    "auto"."""
    mask: NDArray[np.bool_] | None
    """Bool, of y's shape or without channels, True where a pixel was observed; None if all were observed."""
    gain: float | Literal["auto"] | None = None
    """Gain of Poisson-Gaussian noise in intensities, or "auto"; `sigma` is then that of the dark, a number or
    "auto". None for Gaussian noise."""
    black_level: float = 0.0
    """The value that encodes intensity 0 in the original image."""
    restore: Restore | None = None
    """Makes arrays of the kind of the original image from those of NumPy; None if it was of NumPy."""

    @classmethod
    def checked(
        cls,
        y: ArrayLike,
        *,
        sigma: Any,
        mask: Any,
        nan: Any = "error",
        noise: Any = GAUSSIAN,
        gain: Any = AUTO,
        range: Any = None,
    ) -> "Measurement":
        """Return a validated measurement.

        Parameters
        ----------
        y : array, (H, W), (H, W, C), (D, H, W) or (D, H, W, C), float, uint8 or uint16
            The measured image or volume. Pixels that a masked array masks were not observed.
        sigma : float, array or "auto"
            Noise standard deviation, in intensities of [0, 1]: a number, or an array of y's shape, which may
            lack channels.
        mask : array or None
            Of the same shapes, nonzero where a pixel was observed; None if all pixels were observed.
        nan : str
            "mask" if numbers of y that are NaN were not observed; "error" leaves them as they are.
        noise : str
            "gaussian", or "poisson-gaussian": of variance gain · x + sigma².
        gain : float or "auto"
            The gain of Poisson-Gaussian noise, in intensities of [0, 1].
        range : (float, float), optional
            The numbers of y that stand for black and white, of any numeric type.

        Raises
        ------
        InvalidArgument
            An argument has the wrong type or shape.
        """
        image, black_level, white_level = as_image(y, as_range(range))
        require_aligned("sigma", sigma, y)
        require_aligned("mask", mask, y)
        if noise not in NOISES:
            raise InvalidArgument.of("noise", f"expected one of {', '.join(NOISES)}, got {noise!r}")
        observed = as_mask(mask, image.shape)
        if isinstance(y, np.ma.MaskedArray) and np.ma.is_masked(y):
            observed = both_masks(observed, ~np.ma.getmaskarray(y))
        if nan not in NAN:
            raise InvalidArgument.of("nan", f"expected one of {', '.join(NAN)}, got {nan!r}")
        if nan == "mask" and (missing := np.isnan(image)).any():
            observed = both_masks(observed, ~missing)
        own_sigma, own_gain = as_sigma(sigma, image.shape), None
        if noise != GAUSSIAN:
            own_sigma, own_gain = as_dark("sigma", own_sigma), as_dark("gain", gain)
            if own_gain == 0:
                raise InvalidArgument.of("gain", "expected a number > 0, got 0; for white noise leave it out")
        elif not isinstance(gain, str) or gain != AUTO:
            raise InvalidArgument.of("gain", f"expected noise poisson-gaussian with it, got {noise}")
        return cls(
            y=image,
            white_level=white_level,
            sigma=own_sigma,
            mask=observed,
            gain=own_gain,
            black_level=black_level,
            restore=restorer(y),
        )

    @property
    def in_intensities(self) -> "Measurement":
        """The measurement as one of intensities in NumPy: results stay what the estimator computes."""
        return replace(self, black_level=0.0, white_level=1.0, restore=None)

    def returned(self, result: Result) -> Result:
        """Return a result in intensities as one in the range of the image, and of its kind of array."""
        result = result.scaled(self.white_level, self.black_level)
        return result if self.restore is None else result.restored(self.restore)

    def of_kind(self, product: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the product of a vector and a derivative as an array of the kind of the image."""
        return product if self.restore is None else self.restore(product, "vjp")

    @property
    def is_estimated(self) -> bool:
        """Whether a part of the noise is to be estimated."""
        return isinstance(self.sigma, str) or isinstance(self.gain, str)

    @property
    def is_plain(self) -> bool:
        """Whether the standard deviation of the noise of each pixel is stated."""
        return self.gain is None and not self.is_estimated

    @property
    def observed(self) -> FloatArray:
        """The numbers of y that were observed, (N,)."""
        pixels = math.prod(self.y.shape[: max(2, self.y.ndim - 1)])  # of a volume (D, H, W): its rows
        y = self.y.reshape(pixels, -1)
        return y.ravel() if self.mask is None else y[np.broadcast_to(self.mask.reshape(pixels, -1), y.shape)]

    @property
    def arrays(self) -> dict[str, WireArray]:
        """The arrays of the measurement, by the name of their field in a request."""
        arrays: dict[str, WireArray] = {"y": self.y}
        if isinstance(self.sigma, np.ndarray):
            arrays["sigma_map"] = self.sigma
        if self.mask is not None:
            arrays["mask"] = self.mask.view(np.uint8)
        return arrays

    @property
    def nbytes(self) -> int:
        """Total size of the arrays, in bytes."""
        return sum(array.nbytes for array in self.arrays.values())

    def crop(self, *spans: NDArray[np.integer]) -> "Measurement":
        """Return the measurement restricted to some positions along its first axes.

        Parameters
        ----------
        *spans : int, (n,) each
            Numbers of the rows and columns, or of the planes, rows and columns.
        """
        cut = np.ix_(*spans)
        return replace(
            self,
            y=self.y[cut],
            sigma=self.sigma[cut] if isinstance(self.sigma, np.ndarray) else self.sigma,
            mask=None if self.mask is None else self.mask[cut],
        )

    def with_noise(self, estimate: NoiseEstimate) -> "Measurement":
        """Return the measurement with the noise of an estimate, which has one σ or one for each channel.

        Noise of gain 0 is Gaussian.
        """
        sigma = estimate.sigma
        if len(sigma) == 1:
            return replace(self, sigma=float(sigma[0]), gain=estimate.gain or None)
        return replace(self, sigma=np.broadcast_to(np.asarray(sigma, np.float64), self.y.shape).copy())

    def with_noise_at(
        self,
        x: NDArray[np.floating],
        patch_size: int,
        patch_depth: int = 1,
        *,
        circular: bool = False,
    ) -> "Measurement":
        """Return the measurement with Gaussian noise of the variance that its noise has for a clean image.

        It is gain · (m + 3/8 gain) + sigma², with the mean m of max(x, 0) over the patch around the pixel:
        the variance at the pixel itself would have a pixel of few counts exclude all but dark patches.

        Parameters
        ----------
        x : float, shape of y
            The clean image, in intensities.
        patch_size : int
            Rows and columns of the patches.
        patch_depth : int
            Planes of the patches; 1 for those of images.
        circular : bool
            Whether patches continue x periodically; otherwise with its nearest pixels.
        """
        if not isinstance(self.gain, float) or not isinstance(self.sigma, float):
            raise TypeError("expected Poisson-Gaussian noise that is known")
        mean = np.maximum(x, 0.0, dtype=np.float64)
        sides = (patch_size, patch_size) if patch_depth == 1 else (patch_depth, patch_size, patch_size)
        for axis, side in enumerate(sides):
            width = [(0, 0)] * mean.ndim
            width[axis] = side // 2, (side - 1) // 2
            padded = np.pad(mean, width, mode="wrap" if circular else "edge")
            mean = np.lib.stride_tricks.sliding_window_view(padded, side, axis=axis).mean(axis=-1)
        variance = self.gain * (mean + _COUNTS * self.gain) + self.sigma**2
        return replace(self, sigma=np.sqrt(variance), gain=None)

    def with_mean_noise(self) -> "Measurement":
        """Return the measurement with white Gaussian noise of the mean variance of its noise."""
        seen = self.observed
        mean = float(seen.mean(dtype=np.float64)) if seen.size else 0.0
        one = self.with_noise_at(np.full((1, 1), mean if math.isfinite(mean) else 0.0), 1)
        return replace(one, sigma=float(np.max(one.sigma)))
