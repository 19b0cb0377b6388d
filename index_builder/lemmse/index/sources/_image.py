"""The types of images and sources, and the validation that all kinds of source share."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files import ROUNDING, divisor_hint, readable

__all__ = [
    "Image",
    "ImageSource",
    "SourceKind",
    "bad_source",
    "check_dtype",
    "checked",
    "decoding",
    "intensities",
]

Image: TypeAlias = NDArray[np.uint8 | np.uint16 | np.float32]
"""An image, (H, W, C), uint8, uint16 or float32. Integers use their full range; floats are in [0, 1]."""


class ImageSource(Protocol):
    """A sequence of images, each decoded when it is indexed."""

    @property
    def spec(self) -> str:
        """The source, as the user wrote it."""
        ...

    def __len__(self) -> int:
        """Return the number of images, at least 1."""
        ...

    def __getitem__(self, k: int) -> Image:
        """Return image k, decoded; raise IndexError past the end, InvalidArgument if it is not an image."""
        ...

    def label(self, k: int) -> str:
        """Return the origin of image k: 'a/b.png', 'train.npz[17]', 'photos/astronaut[0:64, 64:128]'."""
        ...


class SourceKind(NamedTuple):
    """One kind of source."""

    what: str
    """Description of the kind, for error messages."""
    matches: Callable[[str], bool]
    """A callable that returns whether a source, as the user wrote it, is of this kind."""
    open: Callable[[str], ImageSource]
    """A callable that opens a source of this kind."""


def bad_source(expected: str) -> InvalidArgument:
    """Return the error for an invalid source."""
    return InvalidArgument.of("SOURCE", expected)


def decoding(path: str) -> AbstractContextManager[None]:
    """Raise InvalidArgument, naming the file, in place of any exception of a decoder in the `with` block."""
    return readable(
        lambda reason: bad_source(f"expected a readable file, got {path} ({reason}); repair or remove it")
    )


def check_dtype(dtype: np.dtype[Any], label: str) -> None:
    """Raise InvalidArgument unless this is a valid dtype of images."""
    if dtype.kind in "bf" or (dtype.kind == "u" and dtype.itemsize <= 2):
        return
    raise bad_source(
        f"expected uint8, uint16 or float in [0, 1], got {dtype.name} in {label}; convert it first"
    )


def checked(pixels: NDArray[Any], label: str) -> Image:
    """Return a decoded image as a validated `Image`; `label` is its name in error messages."""
    check_dtype(pixels.dtype, label)
    image = pixels[..., None] if pixels.ndim == 2 else pixels
    if image.ndim != 3 or image.size == 0:
        raise bad_source(f"expected one image (H, W) or (H, W, C), got shape {pixels.shape} in {label}")
    if image.dtype.kind == "b":
        return np.where(image, np.uint8(255), np.uint8(0))
    if image.dtype.kind == "u":
        return np.ascontiguousarray(image, dtype=np.uint8 if image.dtype.itemsize == 1 else np.uint16)
    if not np.isfinite(image).all():
        raise bad_source(f"expected finite intensities, got NaN or infinity in {label}; repair or remove it")
    low, high = image.min(), image.max()
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise bad_source(
            f"expected float intensities in [0, 1], got {low:.9g} to {high:.9g} in {label}; "
            f"{divisor_hint(high)}"
        )
    return np.ascontiguousarray(np.clip(image, 0, 1), dtype=np.float32)


def intensities(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return an image in intensities: integers divided by the largest value of their type, floats unchanged.

    Parameters
    ----------
    image : ndarray, any shape, uint8, uint16 or float32 in [0, 1]
        Pixels of a source.

    Returns
    -------
    ndarray, the same shape, float32, in [0, 1]

    Examples
    --------
    >>> intensities(np.array([0, 51, 255], np.uint8))
    array([0. , 0.2, 1. ], dtype=float32)
    """
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return image.astype(np.float32)
