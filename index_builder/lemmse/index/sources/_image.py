"""The types of images and sources, and the validation that all kinds of source share."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files import ROUNDING, Scale, divisor_hint, readable
from lemmse.index.sources._reading import Reading

__all__ = [
    "Image",
    "ImageSource",
    "SourceKind",
    "bad_source",
    "decoding",
    "intensities",
    "scale_of",
    "to_image",
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
    open: Callable[[str, Reading], ImageSource]
    """A callable that opens a source of this kind."""


def bad_source(expected: str) -> InvalidArgument:
    """Return the error for an invalid source."""
    return InvalidArgument.of("SOURCE", expected)


def decoding(path: str) -> AbstractContextManager[None]:
    """Raise InvalidArgument, naming the file, in place of any exception of a decoder in the `with` block."""
    return readable(
        lambda reason: bad_source(f"expected a readable file, got {path} ({reason}); repair or remove it")
    )


def scale_of(dtype: np.dtype[Any], stated: tuple[float, float] | None, label: str) -> Scale:
    """Return how numbers of a type encode intensities; `label` is their file in the error message."""
    try:
        return Scale.of(dtype, stated=stated)
    except InvalidArgument as error:
        raise bad_source(f"{label}: {error}") from error


def to_image(numbers: NDArray[Any], scale: Scale, label: str, *, bounded: bool = True) -> Image:
    """Return decoded numbers, (H, W) or (H, W, C), as a validated `Image`.

    `label` is the name of the image in error messages. Unless `bounded`, floats may be outside [0, 1].
    """
    image = numbers[..., None] if numbers.ndim == 2 else numbers
    if scale.native:
        return np.ascontiguousarray(image, dtype=scale.dtype)
    if scale.dtype.kind == "b" and (scale.black, scale.white) == (0, 1):
        return np.where(image, np.uint8(255), np.uint8(0))
    if scale.dtype.kind == "f" and not np.isfinite(image).all():
        raise bad_source(f"expected finite intensities, got NaN or infinity in {label}; repair or remove it")
    x = scale.intensities(image)
    if not bounded:
        return np.ascontiguousarray(x, dtype=np.float32)
    low, high = x.min(), x.max()
    if low < -ROUNDING or high > 1 + ROUNDING:
        low, high = image.min(), image.max()
        if scale.dtype.kind != "f" or (scale.black, scale.white) != (0, 1):
            raise bad_source(
                f"expected numbers in the range {scale.black:.9g},{scale.white:.9g}, got {low:.9g} to "
                f"{high:.9g} in {label}; state a range that has them all"
            )
        raise bad_source(
            f"expected float intensities in [0, 1], got {low:.9g} to {high:.9g} in {label}; "
            f"{divisor_hint(high)}, or state their range"
        )
    return np.ascontiguousarray(np.clip(x, 0, 1), dtype=np.float32)


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
