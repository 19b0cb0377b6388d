"""The full verification of the content of an index: all of it can be read."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from lemmse.contract.errors import DataLoss
from lemmse.index.callbacks import Progress, silent
from lemmse.index.ranges import CHUNK
from lemmse.index.reading.index_version import Index
from lemmse.index.storage import shards, zarr_store
from lemmse.index.storage.folder import ARRAYS, about_index
from lemmse.index.storage.inverted_lists import to_search
from lemmse.index.storage.manifest import REMEDY

if TYPE_CHECKING:
    import zarr

__all__ = ["verify"]


def verify(index: Index, progress: Progress = silent) -> None:
    """Decode every chunk of the arrays of an index, and compare the FAISS indexes with them.

    `open_index` has compared the checksums of the files.

    Parameters
    ----------
    index : Index
        The index.
    progress : callable
        Called as `progress(stage, done, total)`, in bytes.

    Raises
    ------
    DataLoss
        A file cannot be read although its checksum is correct.
    """
    with about_index(index.name, index.version):
        arrays = _arrays(index)
        stage, done, total = "decode chunks", 0, sum(array.nbytes for array in arrays.values())
        progress(stage, done, total)
        for name, array in arrays.items():
            step = max(CHUNK, array.chunks[0])
            for start in range(0, array.shape[0], step):
                with zarr_store.raise_data_loss(name):
                    done += np.asarray(array[start : start + step]).nbytes
                progress(stage, done, total)
        _require_neighbours(index)


def _require_neighbours(index: Index) -> None:
    """Raise DataLoss unless the inverted lists of the FAISS indexes have the keys of their cells.

    Raises
    ------
    DataLoss
        A list has other keys.
    """
    lists, edges = index.neighbours.invlists, index.cell_keys
    code = lists.code_size
    for cell, (start, stop) in enumerate(pairwise(edges.tolist())):
        if start == stop:
            continue
        stored = faiss.rev_swig_ptr(lists.get_codes(cell), (stop - start) * code).reshape(-1, code)
        q = to_search(index.packed_keys.rows(start, stop), index.quantization)
        codes = q.astype(np.uint8) if code == q.shape[1] else q.view(np.uint8)
        if not np.array_equal(stored, codes):
            raise DataLoss(f"{shards.NEIGHBOURS}: cell {cell} has other keys than the arrays; {REMEDY}")


def _arrays(index: Index) -> "dict[str, zarr.Array[Any]]":
    """Return all arrays of an index, by their path in the folder of the version."""
    names = (shards.name_of(number) for number in range(index.manifest.shards))
    groups = (ARRAYS, *(f"{name}/{shards.ARRAYS}" for name in names))
    return {
        f"{group}/{name}": array
        for group in groups
        for name, array in zarr_store.arrays(zarr_store.open_pinned(index.files, group)).items()
    }
