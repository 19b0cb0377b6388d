"""A source of images of one size in an array, the content of most file formats.

Its axes are those that the user states, or else those of the file, or else (N, H, W) or (N, H, W, C).
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files import Layout, check_size
from lemmse.index.sources._image import Image, bad_source, decoding, scale_of, to_image
from lemmse.index.sources._reading import Reading

__all__ = ["ArraySource", "Numbers"]


class Numbers(Protocol):
    """An array, or a lazily loaded substitute."""

    def __getitem__(self, index: tuple[Any, ...], /) -> Any:
        """Return the numbers that integers and slices, one for each axis, select."""
        ...


class ArraySource:
    """An array as a source of images.

    Parameters
    ----------
    spec : str
        The source, as the user wrote it.
    path : Path
        The file that contains the array.
    reading : Reading
        What the user states about it.
    shape : tuple of int
        Shape of the array, from the header of the file.
    dtype : dtype
        Element type of the array, from the header of the file.
    load : callable
        Returns the array; it is called once, when the first image is indexed.
    axes : str, optional
        Letters of the axes, if the file states them.

    Raises
    ------
    InvalidArgument
        The array does not contain images, or they are too large.
    """

    def __init__(
        self,
        spec: str,
        path: Path,
        reading: Reading,
        *,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        load: Callable[[], Numbers],
        axes: str | None = None,
    ) -> None:
        self.spec = spec
        self._path = path
        self._reading = reading
        self._load = load
        self._layout = _layout(shape, reading.axes or axes, path)
        self._scale = scale_of(dtype, reading.stated, str(path))
        size = self._layout.plane_shape
        try:
            if reading.roi is not None:
                size = tuple(part.stop - part.start for part in reading.roi.within(*size[:2]))
            check_size(size[0], size[1], self._layout.channels)
        except InvalidArgument as error:
            raise bad_source(f"{path}: {error}") from error

    def __len__(self) -> int:
        """Return the number of images."""
        return self._layout.count

    def __getitem__(self, k: int) -> Image:
        """Return image k, decoded."""
        k = range(len(self))[k]
        index = self._reading.cropped(self._layout, self._layout.index(k))
        with decoding(str(self._path)):
            numbers = self._layout.to_plane(np.asarray(self._numbers[index]))
        return to_image(numbers, self._scale, f"{self._path}[{k}]", bounded=self._reading.bounded)

    def label(self, k: int) -> str:
        """Return the file name, the number of image k, and its region."""
        return self._reading.label(self._path.name, range(len(self))[k])

    @cached_property
    def _numbers(self) -> Numbers:
        return self._load()


def _layout(shape: tuple[int, ...], axes: str | None, path: Path) -> Layout:
    if axes is None:
        if (problem := _problem(shape)) is not None:
            raise bad_source(
                f"expected images (N, H, W) or (N, H, W, C), got shape {shape} in {path}{problem}"
            )
        axes = "NYX" if len(shape) == 3 else "NYXS"
    try:
        return Layout.checked(axes, shape)
    except InvalidArgument as error:
        raise bad_source(f"{path}: {error}") from error


def _problem(shape: tuple[int, ...]) -> str | None:
    """Return a hint for the error message of an invalid shape, possibly empty; None if the shape is valid."""
    if len(shape) == 2 and 0 not in shape:
        return ", which looks like one grey image; add an axis in front, or state axes YX"
    if len(shape) not in (3, 4) or 0 in shape:
        return ""
    if len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) >= 8:
        return ", which looks like one colour image; add an axis in front, or state axes YXS"
    if len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= 8:
        return ", which looks like channels first; move them to the last axis, or state axes TSYX"
    return None
