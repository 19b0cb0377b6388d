"""idx-ubyte files as a source, plain or gzipped: the format of MNIST and FashionMNIST."""

import gzip
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from lemmse.index.sources._array_source import ArraySource
from lemmse.index.sources._image import SourceKind, bad_source, decoding
from lemmse.index.sources._reading import Reading
from lemmse.index.sources._unpacked import unpacked

__all__ = ["KIND"]

_MAGIC = 0x00000803
"""Magic number for unsigned bytes with three axes: images, rows, columns."""
_HEADER = 16
"""Length of the header in bytes: magic number and three axis lengths, as big-endian 32-bit integers."""


def _matches(spec: str) -> bool:
    path = Path(spec)
    return path.name.lower().removesuffix(".gz").endswith(("ubyte", ".idx")) and path.is_file()


def _open(spec: str, reading: Reading) -> ArraySource:
    path = Path(spec)
    with decoding(spec), _stream(path) as file:
        header = file.read(_HEADER)
    magic = int.from_bytes(header[:4])
    if len(header) < _HEADER:
        raise bad_source(
            f"expected a header of {_HEADER} bytes, got {len(header)} in {path}, which is cut short"
        )
    if magic != _MAGIC:
        raise bad_source(f"expected idx images (magic 0x{_MAGIC:08x}), got magic 0x{magic:08x} in {path}")
    n, rows, columns = (int(size) for size in np.frombuffer(header, ">u4", offset=4))
    shape = (n, rows, columns)
    dtype = np.dtype(np.uint8)
    return ArraySource(spec, path, reading, shape=shape, dtype=dtype, load=partial(_load, path, shape))


def _stream(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _load(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    with decoding(str(path)), _stream(path) as file:
        file.seek(_HEADER)
        return unpacked(file, np.dtype(np.uint8), shape, str(path))


KIND = SourceKind("idx-ubyte[.gz]", _matches, _open)
