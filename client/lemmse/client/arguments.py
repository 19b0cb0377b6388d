"""Checks that save a round trip, and what no message can carry; the rest is the estimator's to check."""

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lemmse.client.errors import InvalidArgument
from lemmse.wire import MAPS, MAX_CONTRIBUTORS, MODES, FloatArray

__all__ = ["ExplainOptions", "Options", "as_measurement"]

_UINT32 = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a reconstruction asks for, besides the image."""

    sigma: float
    """Noise standard deviation, in the images' intensity units."""
    index: str | None
    """Name of the index; None where there is only one."""
    mode: str
    """How the posterior sums are computed."""
    k: int | None
    """Neighbours to sum for each patch."""
    nprobe: int | None
    """Cells of the index to search for each patch."""
    maps: frozenset[str]
    """Results wanted beside the image."""

    @classmethod
    def checked(
        cls, *, sigma: Any, index: str | None, mode: str, k: Any, nprobe: Any, maps: Collection[str]
    ) -> "Options":
        """Return what a caller asks for.

        Raises
        ------
        InvalidArgument
            An option cannot be meant.
        """
        if mode not in MODES:
            raise InvalidArgument.of("mode", f"expected one of {', '.join(MODES)}, got {mode!r}")
        if isinstance(maps, str):
            raise InvalidArgument.of("maps", f"expected a collection of names, got the string {maps!r}")
        for name in maps:
            if name not in MAPS:
                raise InvalidArgument.of("maps", f"expected names out of {', '.join(MAPS)}, got {name!r}")
        return cls(
            sigma=_as_sigma(sigma),
            index=index,
            mode=mode,
            k=None if k is None else _as_count("k", k),
            nprobe=None if nprobe is None else _as_count("nprobe", nprobe),
            maps=frozenset(maps),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """What an explanation asks for, besides the image."""

    sigma: float
    """Noise standard deviation, in the images' intensity units."""
    index: str | None
    """Name of the index; None where there is only one."""
    pixel: tuple[int, int]
    """Row and column in the image."""
    top: int
    """Contributors to name."""

    @classmethod
    def checked(
        cls, shape: tuple[int, ...], *, sigma: Any, index: str | None, pixel: Any, top: Any
    ) -> "ExplainOptions":
        """Return what a caller asks for about an image of some shape.

        Raises
        ------
        InvalidArgument
            An option cannot be meant.
        """
        return cls(
            sigma=_as_sigma(sigma),
            index=index,
            pixel=_as_pixel(pixel, shape),
            top=_as_count("top", top, MAX_CONTRIBUTORS),
        )


def _as_sigma(sigma: Any) -> float:
    """Return the noise standard deviation as a float."""
    try:
        return float(sigma)
    except (TypeError, ValueError) as error:
        raise InvalidArgument.of("sigma", f"expected a number, got {sigma!r}") from error


def _as_count(argument: str, value: Any, most: int = _UINT32) -> int:
    """Return a whole number from 1 to `most`."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise InvalidArgument.of(argument, f"expected a whole number >= 1, got {value!r}") from error
    if not 1 <= count <= most:
        bound = ">= 1" if count < 1 else f"<= {most}"
        raise InvalidArgument.of(argument, f"expected a whole number {bound}, got {count}")
    return count


def _as_pixel(pixel: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the row and column of a pixel inside an image."""
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


def as_measurement(y: ArrayLike) -> FloatArray:
    """Return an image as an array of floats, (H, W) or (H, W, C).

    Examples
    --------
    >>> as_measurement([[0.0, 1.0]])
    array([[0., 1.]])
    >>> as_measurement(np.zeros((2, 2), np.uint8))
    Traceback (most recent call last):
    ...
    lemmse.client.errors.InvalidArgument: y: expected floats with clean intensities in [0, 1], got uint8
    """
    try:
        array = np.asarray(y)
    except (TypeError, ValueError, RuntimeError) as error:
        # RuntimeError and TypeError: torch tensors that need a gradient or live on a GPU.
        message = " ".join(str(error).split())
        raise InvalidArgument.of("y", f"expected an array, got a {type(y).__name__}: {message}") from error
    if not np.issubdtype(array.dtype, np.floating):
        raise InvalidArgument.of("y", f"expected floats with clean intensities in [0, 1], got {array.dtype}")
    if array.ndim not in (2, 3) or array.size == 0:
        raise InvalidArgument.of("y", f"expected an image of shape (H, W) or (H, W, C), got {array.shape}")
    if array.dtype.itemsize <= 4:
        return array.astype(np.float32, copy=False)
    return array.astype(np.float64, copy=False)
