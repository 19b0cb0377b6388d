"""The Zarr arrays of an index version.

    images/pixels  (N, C)  source dtype  the pixels of all training images, see images/stack.py
    images/sizes   (K, 2)  int64         heights and widths of the training images
    strata/cells   (S+1,)  int64         stratum s has the cells strata/cells[s] … strata/cells[s + 1] − 1
    strata/…               float64       see patches/strata.py
    basis/…                float32       the principal axes of the keys, see clustering/moments.py
    mixture/…      (G, …)  float32       the Gaussian mixture, see clustering/mixture.py; only if A = B = I
    physics/…              float64       the content of a file that a specification names; the noise spectrum

Keys are stored in shards, see shards.py. Chunks are compressed by Zstandard with its checksum, so that Zarr
detects flipped bits; they are grouped in a few large Zarr shards, so that a version has some tens of files
regardless of its size. Data that every search reads is stored as plain arrays: each is one uncompressed chunk
followed by its CRC-32C, and can be mapped into memory.

An index may come from an untrusted source: reading/layout.py checks all metadata before an array is opened.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from lemmse.contract.errors import DataLoss
from lemmse.index.ranges import CHUNK
from lemmse.index.storage.manifest import REMEDY
from lemmse.index.storage.pinned import PinnedFiles

__all__ = [
    "CHUNK",
    "SHARD",
    "arrays",
    "create",
    "create_array",
    "dtype",
    "open_arrays",
    "open_pinned",
    "plain_file",
    "raise_data_loss",
    "read",
    "read_all",
    "read_group",
    "shape",
    "take",
    "write",
    "write_blocks",
    "write_plain",
]

SHARD = 16 * CHUNK
"""Number of rows of a Zarr shard, the unit of writing; the unit of reading is CHUNK rows."""


def create(path: Path) -> zarr.Group:
    """Create an empty group, and return it."""
    return zarr.create_group(store=str(path), zarr_format=3)


def create_array(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> "zarr.Array[Any]":
    """Create an array in a group, replacing an existing one, and return it; it is filled shard by shard."""
    chunk = min(CHUNK, shape[0])
    # An array shorter than a shard becomes one shard of whole chunks.
    shard = min(SHARD, -(-shape[0] // chunk) * chunk)
    return group.create_array(
        name,
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=(chunk, *shape[1:]),
        shards=(shard, *shape[1:]),
        compressors=ZstdCodec(level=1, checksum=True),
        overwrite=True,  # left by an interrupted build
    )


def write(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    """Write an array, shard by shard."""
    array = create_array(group, name, values.shape, values.dtype)
    for start in range(0, len(values), SHARD):
        array[start : start + SHARD] = values[start : start + SHARD]


def write_plain(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    """Write an array as one uncompressed chunk, so that its file begins with the elements as in memory."""
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


def plain_file(name: str, dimensions: int) -> str:
    """Return the name of the file of an array that `write_plain` wrote."""
    return "/".join([name, "c", *["0"] * dimensions])


def write_blocks(group: zarr.Group, name: str, blocks: Iterable[NDArray[Any]]) -> None:
    """Write an array whose rows arrive in blocks of any length, shard by shard."""
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
    """Open a group that a build has written, for reading by default."""
    return zarr.open_group(
        store=str(path), mode="r+" if writing else "r", zarr_format=3, use_consolidated=False
    )


def open_pinned(files: PinnedFiles, path: str) -> zarr.Group:
    """Open a group in the files of a version for reading; `layout` says what may be read."""
    buffers: dict[str, Any] = {
        name: cpu.Buffer.from_array_like(content)
        for name, content in files.contents.items()
        if name.startswith(f"{path}/")
    }
    store = MemoryStore(buffers, read_only=True)
    with raise_data_loss(path):
        return zarr.open_group(store=store, path=path, mode="r", zarr_format=3, use_consolidated=False)


def read(group: zarr.Group, name: str, start: int, stop: int) -> NDArray[Any]:
    """Return rows start … stop − 1 of an array.

    Raises
    ------
    DataLoss
        The array is missing or damaged.
    """
    with raise_data_loss(f"{group.path}/{name}"):
        return np.asarray(_array(group, name)[start:stop])


def take(group: zarr.Group, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return some rows of an array, in the given order; each chunk is read once. See `read`."""
    with raise_data_loss(f"{group.path}/{name}"):
        return np.asarray(_array(group, name).oindex[rows])


def read_all(group: zarr.Group, name: str) -> NDArray[Any]:
    """Return all rows of an array, see `read`."""
    with raise_data_loss(f"{group.path}/{name}"):
        return np.asarray(_array(group, name)[:])


def read_group(group: zarr.Group, name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an inner group by name, see `read`; an empty dict if there is no such group."""
    with raise_data_loss(f"{group.path}/{name}"):
        if name not in group:
            return {}
        inner = group[name]
        if not isinstance(inner, zarr.Group):
            raise TypeError("expected a group, got an array")
        keys = sorted(inner.array_keys())
    return {key: read_all(group, f"{name}/{key}") for key in keys}


def arrays(group: zarr.Group) -> "dict[str, zarr.Array[Any]]":
    """Return all arrays of a group and its inner groups, by path."""
    return {name: member for name, member in group.members(None) if isinstance(member, zarr.Array)}


def dtype(group: zarr.Group, name: str) -> str:
    """Return the element type of an array."""
    return str(_array(group, name).dtype)


def shape(group: zarr.Group, name: str) -> tuple[int, ...]:
    """Return the shape of an array."""
    return tuple(_array(group, name).shape)


def _array(group: zarr.Group, name: str) -> "zarr.Array[Any]":
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise DataLoss(f"{name} is not an array; {REMEDY}")
    return array


@contextmanager
def raise_data_loss(name: str) -> Iterator[None]:
    """Raise DataLoss, naming a part of an index, for errors of Zarr in the `with` block.

    Raises
    ------
    DataLoss
        The block raised KeyError, RuntimeError, TypeError or ValueError.
    """
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataLoss(f"{name} cannot be read: {error}; {REMEDY}") from error
