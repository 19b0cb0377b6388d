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
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.contract.arrays import Restore, as_numpy, require_aligned, restorer
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.lines import one_line
from lemmse.contract.results import NoiseEstimate, Result
from lemmse.contract.tensors import FloatArray, WireArray

__all__ = [
    "AUTO",
    "GAUSSIAN",
    "NAN",
    "NOISES",
    "POISSON_GAUSSIAN",
    "Gain",
    "Mask",
    "Measurement",
    "Range",
    "Sigma",
    "checked_vector",
    "measurements",
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

_LARGEST_NOISE = 1e6
"""Largest gain, and σ in the dark."""
_COUNTS = 0.375
"""Intensity that is added to a clean image for the variance of its noise, in units of the gain (Anscombe)."""

Sigma = float | ArrayLike
"""Noise standard deviation in intensities: a number, a map (H, W) or (H, W, C), or of a volume, or "auto"."""

Mask = ArrayLike | None
"""Mask, of the same shapes, nonzero where a pixel was observed; None if all pixels were observed."""

_LARGEST_NUMBER = 1e20
"""Largest magnitude in a vector: a product with a derivative, 10¹² times as large at most, is a float32."""


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
        image, black_level, white_level = _as_image(y, _as_range(range))
        require_aligned("sigma", sigma, y)
        require_aligned("mask", mask, y)
        if noise not in NOISES:
            raise InvalidArgument.of("noise", f"expected one of {', '.join(NOISES)}, got {noise!r}")
        observed = _as_mask(mask, image.shape)
        if isinstance(y, np.ma.MaskedArray) and np.ma.is_masked(y):
            observed = _both(observed, ~np.ma.getmaskarray(y))
        if nan not in NAN:
            raise InvalidArgument.of("nan", f"expected one of {', '.join(NAN)}, got {nan!r}")
        if nan == "mask" and (missing := np.isnan(image)).any():
            observed = _both(observed, ~missing)
        own_sigma, own_gain = _as_sigma(sigma, image.shape), None
        if noise != GAUSSIAN:
            own_sigma, own_gain = _as_dark("sigma", own_sigma), _as_dark("gain", gain)
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


@overload
def measurements(
    images: Iterable[ArrayLike],
    sigma: Sigma | Iterable[Sigma],
    mask: Mask | Iterable[Mask],
    *,
    gain: Gain | Iterable[Gain] = ...,
    **common: Any,
) -> Iterator[Measurement | InvalidArgument]: ...


@overload
def measurements(
    images: AsyncIterable[ArrayLike],
    sigma: Sigma | Iterable[Sigma],
    mask: Mask | Iterable[Mask],
    *,
    gain: Gain | Iterable[Gain] = ...,
    **common: Any,
) -> AsyncIterator[Measurement | InvalidArgument]: ...


def measurements(
    images: Any,
    sigma: Sigma | Iterable[Sigma],
    mask: Mask | Iterable[Mask],
    *,
    gain: Gain | Iterable[Gain] = AUTO,
    **common: Any,
) -> Iterator[Measurement | InvalidArgument] | AsyncIterator[Measurement | InvalidArgument]:
    """Return an iterator over the measurements of a batch, with an error in place of each invalid one.

    Parameters
    ----------
    images : iterable or asynchronous iterable of arrays
        The images; the iterator is asynchronous if they are.
    sigma, mask, gain
        A number, "auto", None or an array with two or more axes applies to all images; any other iterable,
        including an array with one axis, has one value for each image.
    **common
        Further arguments of `Measurement.checked`, for all images.

    Raises
    ------
    InvalidArgument
        The number of images and the number of sigmas, masks or gains are known and differ. (If they are not
        known, an image without one of them is replaced by an error.)
    """
    given = {"sigma": sigma, "mask": mask, "gain": gain}
    each = {name: _each(name, value, images) for name, value in given.items()}

    def measure(y: ArrayLike) -> Measurement | InvalidArgument:
        own = {name: next(values, _NOTHING) for name, values in each.items()}
        try:
            for name, value in own.items():
                if value is _NOTHING:
                    raise InvalidArgument.of(name, "expected one for each image, got none for this one")
            return Measurement.checked(y, **common, **own)
        except InvalidArgument as error:
            return error

    if isinstance(images, AsyncIterable):
        return (measure(y) async for y in images)
    return map(measure, images)


_NOTHING = object()


def _each(argument: str, value: Any, images: Any) -> Iterator[Any]:
    """Return an iterator over the values of an argument, one for each image."""
    if isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) != 1:
        return repeat(value)
    if hasattr(value, "__len__") and hasattr(images, "__len__") and len(value) != len(images):
        raise InvalidArgument.of(
            argument, f"expected one for each of the {len(images)} images, got {len(value)}"
        )
    return iter(value)


def _as_image(y: ArrayLike, range: Range) -> tuple[FloatArray, float, float]:
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


def _as_range(range: Any) -> Range:
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


def _as_dark(argument: str, value: Any) -> float | Literal["auto"]:
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


def _as_sigma(sigma: Any, shape: tuple[int, ...]) -> float | FloatArray | Literal["auto"]:
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


def _as_mask(mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return a mask that is True where a pixel was observed."""
    if mask is None:
        return None
    array = _as_array("mask", mask)
    if array.dtype.kind not in "bfiu" or (array.dtype.kind == "f" and np.isnan(array).any()):
        what = "NaN" if array.dtype.kind == "f" else array.dtype
        raise InvalidArgument.of("mask", f"expected booleans or numbers, not 0 where observed, got {what}")
    require_fit("mask", array.shape, shape)
    return array.astype(np.bool_)


def _both(mask: NDArray[np.bool_] | None, other: NDArray[np.bool_]) -> NDArray[np.bool_]:
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
