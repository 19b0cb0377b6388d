"""The full verification of an index: no byte has changed, and all content can be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lemmse.contract.errors import DataLoss
from lemmse.index.callbacks import Progress, silent
from lemmse.index.ranges import CHUNK
from lemmse.index.reading.index_version import Index
from lemmse.index.storage import shards, zarr_store
from lemmse.index.storage.folder import ARRAYS, about_index
from lemmse.index.storage.manifest import REMEDY

if TYPE_CHECKING:
    import zarr

__all__ = ["raise_data_loss", "verify"]


def verify(index: Index, progress: Progress = silent) -> None:
    """Verify the checksum of every file, decode every chunk of the arrays, and open the FAISS indexes.

    Parameters
    ----------
    index : Index
        The index.
    progress : callable
        Called as `progress(stage, done, total)`, in bytes: of files for checksums, of elements for chunks.

    Raises
    ------
    DataLoss
        A file is missing, truncated or altered, or cannot be read although its checksum is correct.
    """
    with about_index(index.name, index.version):
        index.manifest.verify(index.folder, progress)
        arrays = _arrays(index)
        stage, done, total = "decode chunks", 0, sum(array.nbytes for array in arrays.values())
        progress(stage, done, total)
        for name, array in arrays.items():
            step = max(CHUNK, array.chunks[0])
            for start in range(0, array.shape[0], step):
                with raise_data_loss(name):
                    done += np.asarray(array[start : start + step]).nbytes
                progress(stage, done, total)
        with raise_data_loss(shards.NEIGHBOURS):
            found = index.neighbours.ntotal
        if found != index.manifest.distinct:
            raise DataLoss(
                f"{shards.NEIGHBOURS}: expected {index.manifest.distinct} keys, got {found}; {REMEDY}"
            )


def _arrays(index: Index) -> "dict[str, zarr.Array[Any]]":
    """Return all arrays of an index, by their path in the folder of the version."""
    folders = (shards.folder_of(index.folder, number) for number in range(index.manifest.shards))
    arrays: dict[str, zarr.Array[Any]] = {}
    for path in (index.folder / ARRAYS, *(folder / shards.ARRAYS for folder in folders)):
        within = path.relative_to(index.folder)
        with raise_data_loss(str(within)):
            members = zarr_store.arrays(zarr_store.open_arrays(path))
            arrays |= {f"{within}/{name}": array for name, array in members.items()}
    return arrays


@contextmanager
def raise_data_loss(name: str) -> Iterator[None]:
    """Raise DataLoss, naming a part of an index, for errors of Zarr and FAISS in the `with` block.

    Raises
    ------
    DataLoss
        The block raised KeyError, RuntimeError, TypeError or ValueError.
    """
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataLoss(f"{name} cannot be read: {error}; {REMEDY}") from error
