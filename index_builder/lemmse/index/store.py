"""The Zarr arrays of an index version: names, shapes, codecs.

    images/pixels  (N, C)  source dtype  the pixels of all training images, see images.py
    images/sizes   (K, 2)  int64         their heights and widths
    keys           (U, P)  float32       the distinct v_km, in leaf order, which is within cell order
    counts         (U,)    int32         how many training patches have each
    targets        (M, C)  float32       t_km, the clean centre pixels, in the order of the keys
    ids            (M, 3)  int32         training image, row, column of each patch, in the same order
    symmetries     (M,)    uint8         the copy of the image that it was cut from, see symmetries.py; only
                                         where there is more than one
    cells/keys     (n+1,)  int64         cell c holds the keys cells/keys[c] … cells/keys[c + 1] − 1
    cells/leaves   (n+1,)  int64         and the leaves cells/leaves[c] … cells/leaves[c + 1] − 1
    leaves/keys    (L+1,)  int64         leaf l holds the keys leaves/keys[l] … leaves/keys[l + 1] − 1
    leaves/…       (L, …)  float32       moments of the leaves, see moments.py
    basis/…                float32       the principal axes that the moments are along, see moments.py
    mixture/…      (G, …)  float32       the Gaussians of a mixture, see mixture.py; only where A = B = I

Every chunk is compressed by Zstandard with its checksum, so that Zarr itself notices a flipped bit; the
chunks lie in few large shards, so that a version is some tens of files whatever its size.
"""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import ZstdCodec

__all__ = ["CHUNK", "SHARD", "create", "create_array", "open_arrays", "read"]

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
    )


def open_arrays(path: Path) -> zarr.Group:
    """Open a group for reading."""
    return zarr.open_group(store=str(path), mode="r")


def read(group: zarr.Group, name: str, start: int, stop: int) -> NDArray[Any]:
    """Rows start … stop − 1 of an array."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise KeyError(name)
    return np.asarray(array[start:stop])
