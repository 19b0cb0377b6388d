"""Zarr arrays, of format 2 or 3, as a source."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.zarrs import check_codecs, import_zarr, is_zarr
from lemmse.index.sources._array_source import ArraySource
from lemmse.index.sources._image import SourceKind, bad_source, decoding

if TYPE_CHECKING:
    import zarr

__all__ = ["KIND"]


def _open(spec: str) -> ArraySource:
    zarr = import_zarr()
    path = Path(spec)
    with decoding(spec):
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Group):
            arrays = ", ".join(sorted(name for name, _ in node.arrays())) or "no array"
            raise bad_source(f"expected a Zarr array, got a group with {arrays} in {path}; name the array")
        try:
            check_codecs(node)
        except InvalidArgument as error:
            raise bad_source(f"{path}: {error}") from error
        dtype = np.dtype(node.dtype)
    return ArraySource(spec, path, shape=node.shape, dtype=dtype, load=lambda: _Chunked(path, node))


class _Chunked:
    """A Zarr array, read along its first axis such that each chunk is decoded only once."""

    def __init__(self, path: Path, array: "zarr.Array[Any]") -> None:
        self._path = path
        self._array = array
        self._start = 0
        self._images: NDArray[Any] | None = None

    def __getitem__(self, k: int) -> NDArray[Any]:
        size = self._array.chunks[0]
        start = k - k % size
        if self._images is None or start != self._start:
            with decoding(str(self._path)):
                self._images = np.asarray(self._array[start : start + size])
            self._start = start
        image: NDArray[Any] = self._images[k - start]
        return image


KIND = SourceKind("a Zarr array (N, H, W) or (N, H, W, C)", lambda spec: is_zarr(Path(spec)), _open)
