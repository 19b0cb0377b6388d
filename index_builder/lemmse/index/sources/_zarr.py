"""Zarr arrays, of format 2 or 3."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index.sources._image import Kind, bad_source, reading
from lemmse.index.sources._stack import Stack

__all__ = ["KIND"]


def _matches(spec: str) -> bool:
    folder = Path(spec)
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def _open(spec: str) -> Stack:
    path = Path(spec)
    with reading(spec):
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Group):
            arrays = ", ".join(sorted(name for name, _ in node.arrays())) or "no array"
            raise bad_source(f"expected a Zarr array, got a group with {arrays} in {path}; name the array")
        dtype = np.dtype(node.dtype)
    return Stack(spec, path, shape=node.shape, dtype=dtype, load=lambda: _Chunked(path, node))


class _Chunked:
    """A Zarr array that is read along its first axis: each chunk is decoded once, not once for each image."""

    def __init__(self, path: Path, array: zarr.Array[Any]) -> None:
        self._path = path
        self._array = array
        self._start = 0
        self._images: NDArray[Any] | None = None

    def __getitem__(self, k: int) -> NDArray[Any]:
        size = self._array.chunks[0]
        start = k - k % size
        if self._images is None or start != self._start:
            with reading(str(self._path)):
                self._images = np.asarray(self._array[start : start + size])
            self._start = start
        image: NDArray[Any] = self._images[k - start]
        return image


KIND = Kind("a Zarr array (N, H, W) or (N, H, W, C)", _matches, _open)
