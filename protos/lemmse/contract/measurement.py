"""A measurement: the image y, the standard deviation σ of its noise, and the mask of observed pixels.

An image has the axes (H, W) or (H, W, C), a volume (D, H, W) or (D, H, W, C). An array with three axes may be
either: the index that answers decides. Both are floats in intensities, [0, 1], or integers that encode them
in steps of 1/255 (uint8) or 1/65535 (uint16). Integers are converted to intensities here; results are scaled
back by `Measurement.white_level`. Any arguments may be arrays of other libraries; results are of that of y.
σ may be "auto": to be estimated from y where the index is.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.contract.arrays import Restore, as_numpy, require_aligned, restorer
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.lines import one_line
from lemmse.contract.results import Result
from lemmse.contract.tensors import FloatArray, WireArray

__all__ = ["AUTO", "NAN", "Mask", "Measurement", "Sigma", "measurements", "require_fit"]

AUTO: Literal["auto"] = "auto"
"""The σ that is to be estimated."""

NAN = ("error", "mask")
"""What NaN in y means: a mistake, or a pixel that was not observed."""

Sigma = float | ArrayLike
"""Noise standard deviation in intensities: a number, a map (H, W) or (H, W, C), or of a volume, or "auto"."""

Mask = ArrayLike | None
"""Mask, of the same shapes, nonzero where a pixel was observed; None if all pixels were observed."""


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
    """The value that encodes intensity 1 in the original image: 1, 255 or 65535."""
    sigma: float | FloatArray | Literal["auto"]
    """Noise standard deviation in intensities: one number, a map of y's shape, or without channels, or
    "auto"."""
    mask: NDArray[np.bool_] | None
    """Bool, of y's shape or without channels, True where a pixel was observed; None if all were observed."""
    restore: Restore | None = None
    """Makes arrays of the kind of the original image from those of NumPy; None if it was of NumPy."""

    @classmethod
    def checked(cls, y: ArrayLike, *, sigma: Any, mask: Any, nan: Any = "error") -> "Measurement":
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

        Raises
        ------
        InvalidArgument
            An argument has the wrong type or shape.
        """
        image, white_level = _as_image(y)
        require_aligned("sigma", sigma, y)
        require_aligned("mask", mask, y)
        observed = _as_mask(mask, image.shape)
        if isinstance(y, np.ma.MaskedArray) and np.ma.is_masked(y):
            observed = _both(observed, ~np.ma.getmaskarray(y))
        if nan not in NAN:
            raise InvalidArgument.of("nan", f"expected one of {', '.join(NAN)}, got {nan!r}")
        if nan == "mask" and (missing := np.isnan(image)).any():
            observed = _both(observed, ~missing)
        return cls(
            y=image,
            white_level=white_level,
            sigma=_as_sigma(sigma, image.shape),
            mask=observed,
            restore=restorer(y),
        )

    def returned(self, result: Result) -> Result:
        """Return a result in intensities as one in the range of the image, and of its kind of array."""
        result = result.scaled(self.white_level)
        return result if self.restore is None else result.restored(self.restore)

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

    def with_sigma(self, sigma: Sequence[float]) -> "Measurement":
        """Return the measurement with noise of one standard deviation, or of one for each channel."""
        if len(sigma) == 1:
            return replace(self, sigma=float(sigma[0]))
        return replace(self, sigma=np.tile(np.asarray(sigma, np.float64), (*self.y.shape[:2], 1)))


@overload
def measurements(
    images: Iterable[ArrayLike], sigma: Sigma | Iterable[Sigma], mask: Mask | Iterable[Mask], nan: str = ...
) -> Iterator[Measurement | InvalidArgument]: ...


@overload
def measurements(
    images: AsyncIterable[ArrayLike],
    sigma: Sigma | Iterable[Sigma],
    mask: Mask | Iterable[Mask],
    nan: str = ...,
) -> AsyncIterator[Measurement | InvalidArgument]: ...


def measurements(
    images: Any, sigma: Sigma | Iterable[Sigma], mask: Mask | Iterable[Mask], nan: str = "error"
) -> Iterator[Measurement | InvalidArgument] | AsyncIterator[Measurement | InvalidArgument]:
    """Return an iterator over the measurements of a batch, with an error in place of each invalid one.

    Parameters
    ----------
    images : iterable or asynchronous iterable of arrays
        The images; the iterator is asynchronous if they are.
    sigma, mask
        A number, "auto", None or an array with two or more axes applies to all images; any other iterable,
        including an array with one axis, has one value for each image.
    nan
        As in `Measurement.checked`, for all images.

    Raises
    ------
    InvalidArgument
        The number of images and the number of sigmas or masks are known and differ. (If they are not known,
        an image without a sigma or mask is replaced by an error.)
    """
    each = {"sigma": _each("sigma", sigma, images), "mask": _each("mask", mask, images)}

    def measure(y: ArrayLike) -> Measurement | InvalidArgument:
        own = {name: next(values, _NOTHING) for name, values in each.items()}
        try:
            for name, value in own.items():
                if value is _NOTHING:
                    raise InvalidArgument.of(name, "expected one for each image, got none for this one")
            return Measurement.checked(y, nan=nan, **own)
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


def _as_image(y: ArrayLike) -> tuple[FloatArray, float]:
    """Return an image in intensities, float32 or float64, and its white level."""
    array = _as_array("y", y)
    floats = array.dtype.kind == "f"
    if not floats and (array.dtype.kind != "u" or array.dtype.itemsize > 2):
        raise InvalidArgument.of("y", f"expected floats in [0, 1], uint8 or uint16, got {array.dtype}")
    if array.ndim not in (2, 3, 4) or array.size == 0:
        raise InvalidArgument.of(
            "y",
            f"expected an image of shape (H, W) or (H, W, C), or a volume (D, H, W) or (D, H, W, C), got "
            f"{array.shape}",
        )
    if floats:
        return _as_floats(array), 1.0
    white_level = float(np.iinfo(array.dtype).max)
    return (array / np.float32(white_level)).astype(np.float32, copy=False), white_level


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
