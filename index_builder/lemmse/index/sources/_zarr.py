"""Zarr arrays, of format 2 or 3, as a source."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lemmse.index.sources._array_source import ArraySource
from lemmse.index.sources._image import SourceKind, bad_source, decoding

if TYPE_CHECKING:
    import zarr

__all__ = ["KIND"]

_CODECS = frozenset(
    (
        *("adler32", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset"),
        *("fletcher32", "gzip", "lz4", "lzma", "sharding_indexed", "shuffle", "transpose", "zlib", "zstd"),
    )
)
"""Codecs for numbers. Other codecs, such as pickle, may run code from the array's author."""


def _matches(spec: str) -> bool:
    folder = Path(spec)
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def _open(spec: str) -> ArraySource:
    import zarr

    path = Path(spec)
    with decoding(spec):
        node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Group):
            arrays = ", ".join(sorted(name for name, _ in node.arrays())) or "no array"
            raise bad_source(f"expected a Zarr array, got a group with {arrays} in {path}; name the array")
        if unknown := sorted(set(_codec_names(node.metadata.to_dict())) - _CODECS):
            raise bad_source(f"expected codecs of numbers, got {', '.join(unknown)} in {path}; store it anew")
        dtype = np.dtype(node.dtype)
    return ArraySource(spec, path, shape=node.shape, dtype=dtype, load=lambda: _Chunked(path, node))


def _codec_names(metadata: Any) -> Iterable[str]:
    """Return the names of all codecs in the metadata of an array: ids in format 2, names in format 3."""
    codecs = [metadata.get("compressor"), *(metadata.get("filters") or ()), *(metadata.get("codecs") or ())]
    for codec in codecs:
        if codec is None:
            continue
        content = codec if isinstance(codec, dict) else codec.get_config()
        yield str(content.get("name", content.get("id"))).removeprefix("numcodecs.")
        inner = content.get("configuration") or {}
        for name in ("codecs", "index_codecs"):
            yield from _codec_names({"codecs": inner.get(name)})


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


KIND = SourceKind("a Zarr array (N, H, W) or (N, H, W, C)", _matches, _open)
