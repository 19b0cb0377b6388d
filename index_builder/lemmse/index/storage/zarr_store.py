"""The Zarr arrays of an index version: how they are laid out on disk.

    images/pixels  (N, C)  source dtype  the pixels of all training images, see images.py
    images/sizes   (K, 2)  int64         their heights and widths
    strata/cells   (S+1,)  int64         stratum s holds the cells strata/cells[s] … strata/cells[s + 1] − 1
    strata/…               float64       see strata.py
    basis/…                float32       the principal axes that the moments are along, see moments.py
    mixture/…      (G, …)  float32       the Gaussians of a mixture, see mixture.py; only where A = B = I
    physics/…              float64       what a FILE held

The keys lie in shards of their own, see shards.py. Every chunk is compressed by Zstandard with its
checksum, so that Zarr itself notices a flipped bit; the chunks lie in few large shards, so that a version
is some tens of files whatever its size. What is searched all the time is stored plainly instead, each array
as one chunk with its CRC-32C at the end, so that it can be mapped into memory as it is.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

__all__ = [
    "CHUNK",
    "SHARD",
    "create",
    "create_array",
    "dtype",
    "open_arrays",
    "plain_file",
    "read",
    "read_all",
    "read_group",
    "shape",
    "write",
    "write_blocks",
    "write_plain",
]

CHUNK = 16_384
"""Rows in a chunk, the unit of reading."""
SHARD = 16 * CHUNK
"""Rows in a shard, the unit of writing."""


def create(path: Path) -> zarr.Group:
    """Create an empty group."""
    return zarr.create_group(store=str(path), zarr_format=3)


def create_array(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> "zarr.Array[Any]":
    """Create an array in a group, to be filled shard by shard."""
    chunk = min(CHUNK, shape[0])
    # An array shorter than a shard is one shard, cut to whole chunks.
    shard = min(SHARD, -(-shape[0] // chunk) * chunk)
    return group.create_array(
        name,
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=(chunk, *shape[1:]),
        shards=(shard, *shape[1:]),
        compressors=ZstdCodec(level=1, checksum=True),
        overwrite=True,  # what an ended build left of it
    )


def write(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    """Create an array in a group and fill it, shard by shard."""
    array = create_array(group, name, values.shape, values.dtype)
    for start in range(0, len(values), SHARD):
        array[start : start + SHARD] = values[start : start + SHARD]


def write_plain(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    """Store an array as one chunk, not compressed: its file begins with the numbers as they are in memory."""
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=Crc32cCodec(),
        config={"write_empty_chunks": True},
        overwrite=True,
    )
    array[:] = values


def plain_file(path: Path, name: str, dimensions: int) -> Path:
    """The file of an array that was stored as one chunk, in the group at a path."""
    return path.joinpath(name, "c", *["0"] * dimensions)


def write_blocks(group: zarr.Group, name: str, blocks: Iterable[NDArray[Any]]) -> None:
    """Create an array of rows that come in blocks of any length, and fill it, shard by shard."""
    array: zarr.Array[Any] | None = None
    held: list[NDArray[Any]] = []

    def flush(count: int) -> None:
        nonlocal array, held
        rows = np.concatenate(held)
        held = [rows[count:]]
        if array is None:
            array = create_array(group, name, (count, *rows.shape[1:]), rows.dtype)
        else:
            array.resize((array.shape[0] + count, *rows.shape[1:]))
        array[array.shape[0] - count :] = rows[:count]

    for block in blocks:
        held.append(block)
        while (count := sum(map(len, held))) >= SHARD:
            flush(min(count, SHARD))
    if count := sum(map(len, held)):
        flush(count)


def open_arrays(path: Path, *, writing: bool = False) -> zarr.Group:
    """Open a group, for reading unless told otherwise."""
    return zarr.open_group(store=str(path), mode="r+" if writing else "r")


def read(group: zarr.Group, name: str, start: int, stop: int) -> NDArray[Any]:
    """Rows start … stop − 1 of an array."""
    return np.asarray(_array(group, name)[start:stop])


def read_all(group: zarr.Group, name: str) -> NDArray[Any]:
    """All rows of an array."""
    return np.asarray(_array(group, name)[:])


def read_group(group: zarr.Group, name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a group within; none where there is no such group."""
    inner = group.get(name)
    if not isinstance(inner, zarr.Group):
        return {}
    return {name: np.asarray(array[:]) for name, array in inner.arrays()}


def dtype(group: zarr.Group, name: str) -> str:
    """Element type of an array."""
    return str(_array(group, name).dtype)


def shape(group: zarr.Group, name: str) -> tuple[int, ...]:
    """Shape of an array."""
    return tuple(_array(group, name).shape)


def _array(group: zarr.Group, name: str) -> "zarr.Array[Any]":
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return array
