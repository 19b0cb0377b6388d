"""What is known of the images that are drawn, and how it enters their posterior means."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Number

__all__ = ["Condition", "as_condition"]

_LEAST = 1e-5
"""Least noise of a measurement that is not exact, in intensities."""


class Condition:
    """What is known of the images that are drawn: here nothing."""

    centre: float | NDArray[np.float64] = 0.5
    """Where the noise that becomes an image is centred: the middle of the intensities, or known pixels."""
    white_level = 1.0
    """The value of intensity 1 in the images."""

    def question(
        self, x: NDArray[np.float64], sigma: float
    ) -> tuple[NDArray[np.float64], float | NDArray[np.float64]]:
        """Return the images to send for x with noise sigma, and the noise in them."""
        return x, sigma

    def answer(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the posterior means given what was answered."""
        return mean


class _Exact(Condition):
    """Some pixels are known without noise, and keep their values.

    They are replaced in every posterior mean, which is the step of DDNM for a mask (Wang et al., arXiv
    2212.00490).
    """

    def __init__(self, y: NDArray[np.float64], observed: NDArray[np.bool_], white_level: float) -> None:
        self._y, self._observed, self.white_level = y, observed, white_level
        self.centre = np.where(observed, y, Condition.centre)

    def answer(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the means with the known pixels in them."""
        return np.where(self._observed, self._y, mean)


class _Noisy(Condition):
    """Pixels were measured with noise s: x and y are two measurements of one image, and become one.

    Their precisions 1/σ² and 1/s² add up, and the mean of x and y by these is what both say together. The
    posterior mean given it is that given x and y, so that the flow is that of the images given y.
    """

    def __init__(
        self, y: NDArray[np.float64], observed: NDArray[np.bool_], noise: float, white_level: float
    ) -> None:
        self._y, self.white_level = y, white_level
        self._precision = observed / noise**2

    def question(
        self, x: NDArray[np.float64], sigma: float
    ) -> tuple[NDArray[np.float64], float | NDArray[np.float64]]:
        """Return what x and y say together, and the noise in it: one number if all pixels were measured."""
        precision = self._precision + 1 / sigma**2
        joint = (x / sigma**2 + self._precision * self._y) / precision
        noise = 1 / np.sqrt(precision)
        return joint, float(noise.flat[0]) if self._precision.all() else noise


def as_condition(shape: tuple[int, ...], y: Any, mask: Any, sigma: Any) -> Condition:
    """Return what a measurement says of images of a shape; see `Client.sample`.

    Raises
    ------
    InvalidArgument
        The arguments are not of their kinds, or do not fit.
    """
    noise = Number(0, 1e4).check("sigma", sigma)
    if 0 < noise < _LEAST:
        raise InvalidArgument.of("sigma", f"expected 0 or a number in [{_LEAST:g}, 10000], got {noise:g}")
    if y is None:
        if mask is not None or noise:
            raise InvalidArgument.of("y", f"expected one with {'mask' if noise == 0 else 'sigma'}, got none")
        return Condition()
    known = Measurement.checked(y, sigma=noise, mask=mask)
    if known.y.shape != shape:
        raise InvalidArgument.of("y", f"expected shape {shape}, got {known.y.shape}")
    observed = np.ones(shape, np.bool_) if known.mask is None else _broadcast(known.mask, shape)
    values = np.where(observed, known.y, 0).astype(np.float64)
    if not np.isfinite(values).all():
        raise InvalidArgument.of("y", "expected finite numbers where the mask is not 0, got NaN or infinity")
    if noise:
        return _Noisy(values, observed, noise, known.white_level)
    if observed.all():
        raise InvalidArgument.of("sigma", "expected a number > 0 where y has all pixels, got 0")
    return _Exact(values, observed, known.white_level)


def _broadcast(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask, which may lack channels, in the shape of the image."""
    if mask.ndim < len(shape):
        mask = mask[..., None]
    elif mask.ndim > len(shape):
        mask = mask[..., 0]
    return np.broadcast_to(mask, shape)
