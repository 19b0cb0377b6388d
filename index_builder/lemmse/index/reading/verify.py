"""The full pass over an index: every byte is what was written, and every reader can read it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr

from lemmse.contract.errors import DataLoss
from lemmse.index.progress import Progress, silent
from lemmse.index.reading.index import Index
from lemmse.index.storage import shards, zarr_store
from lemmse.index.storage.folder import ARRAYS, about_index
from lemmse.index.storage.manifest import REMEDY

__all__ = ["reading", "verify"]


def verify(index: Index, progress: Progress = silent) -> None:
    """Compare every file with its checksum, decode every chunk of the arrays and open the FAISS indexes.

    Parameters
    ----------
    index : Index
        The index, opened by whichever way.
    progress : callable
        Called as `progress(stage, done, total)`, in bytes: on disk of the checksums, in memory of the chunks.

    Raises
    ------
    DataLoss
        A file is missing, cut short or altered, or cannot be read though it is what was written.
    """
    with about_index(index.name, index.version):
        index.manifest.verify(index.folder, progress)
        arrays = _arrays(index)
        stage, done, total = "decode chunks", 0, sum(array.nbytes for array in arrays.values())
        progress(stage, done, total)
        for name, array in arrays.items():
            step = max(zarr_store.CHUNK, array.chunks[0])
            for start in range(0, array.shape[0], step):
                with reading(name):
                    done += np.asarray(array[start : start + step]).nbytes
                progress(stage, done, total)
        with reading(shards.NEIGHBOURS):
            found = index.neighbours.ntotal
        if found != index.manifest.distinct:
            raise DataLoss(
                f"{shards.NEIGHBOURS}: expected {index.manifest.distinct} keys, got {found}; {REMEDY}"
            )


def _arrays(index: Index) -> "dict[str, zarr.Array[Any]]":
    """All arrays of an index, by path in the version."""
    folders = (shards.folder_of(index.folder, number) for number in range(index.manifest.shards))
    arrays: dict[str, zarr.Array[Any]] = {}
    for path in (index.folder / ARRAYS, *(folder / shards.ARRAYS for folder in folders)):
        within = path.relative_to(index.folder)
        with reading(str(within)):
            for name, member in zarr_store.open_arrays(path).members(max_depth=None):
                if isinstance(member, zarr.Array):
                    arrays[f"{within}/{name}"] = member
    return arrays


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Tell that a part of an index cannot be read; Zarr and FAISS have no class for it.

    Raises
    ------
    DataLoss
        The block raised what they raise.
    """
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataLoss(f"{name} cannot be read: {error}; {REMEDY}") from error
