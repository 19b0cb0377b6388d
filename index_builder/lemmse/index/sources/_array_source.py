"""A source of images of one size in an array, the content of most file formats."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lemmse.index.sources._image import Image, bad_source, check_dtype, checked

__all__ = ["ArraySource", "Rows"]


class Rows(Protocol):
    """An array, or a lazily loaded substitute, indexed by image."""

    def __getitem__(self, k: int, /) -> NDArray[Any]:
        """Return image k."""
        ...


class ArraySource:
    """An array, (N, H, W) or (N, H, W, C), as a source of images.

    Parameters
    ----------
    spec : str
        The source, as the user wrote it.
    path : Path
        The file that contains the array.
    shape : tuple of int
        Shape of the array, from the header of the file.
    dtype : dtype
        Element type of the array, from the header of the file.
    load : callable
        Returns the array; it is called once, when the first image is indexed.
    """

    def __init__(
        self, spec: str, path: Path, *, shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], Rows]
    ) -> None:
        self.spec = spec
        self._path = path
        self._count = shape[0] if shape else 0
        self._load = load
        if (problem := _problem(shape)) is not None:
            raise bad_source(
                f"expected images (N, H, W) or (N, H, W, C), got shape {shape} in {path}{problem}"
            )
        check_dtype(dtype, str(path))

    def __len__(self) -> int:
        """Return the number of images."""
        return self._count

    def __getitem__(self, k: int) -> Image:
        """Return image k, decoded."""
        k = range(len(self))[k]
        return checked(np.asarray(self._rows[k]), f"{self._path}[{k}]")

    def label(self, k: int) -> str:
        """Return the file name and the number of image k."""
        return f"{self._path.name}[{k}]"

    @cached_property
    def _rows(self) -> Rows:
        return self._load()


def _problem(shape: tuple[int, ...]) -> str | None:
    """Return a hint for the error message of an invalid shape, possibly empty; None if the shape is valid."""
    if len(shape) not in (3, 4) or 0 in shape:
        return ""
    if len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) >= 8:
        return ", which looks like one colour image; add an axis in front"
    if len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= 8:
        return ", which looks like channels first; move them to the last axis"
    return None
