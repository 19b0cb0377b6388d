"""The FAISS inverted file over the cells of an index: keys by cell, as they are stored."""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from lemmse.index.storage.quantization import Quantization

__all__ = ["add", "emptied", "empty_index", "stack", "to_search"]


def empty_index(centroids: NDArray[np.float32], quantization: Quantization) -> faiss.IndexIVF:
    """An inverted-file index with these cells and no key.

    Keys and queries are searched in steps. Of keys in bytes FAISS has these, of others float32.
    """
    return _over(
        to_search(quantization.steps(centroids), quantization), in_bytes=quantization.dtype == np.uint8
    )


def emptied(index: faiss.IndexIVF) -> faiss.IndexIVF:
    """An index with the same cells and no key."""
    return _over(_centroids(index), in_bytes=_is_in_bytes(index))


def stack(parts: Sequence[faiss.IndexIVF]) -> faiss.IndexIVF:
    """One index over the cells of several, which each number their keys from 0; it holds no key itself."""
    index = _over(np.concatenate([_centroids(part) for part in parts]), in_bytes=_is_in_bytes(parts[0]))
    lists = faiss.InvertedListsPtrVector()
    for part in parts:
        lists.push_back(part.invlists)
    stacked = faiss.VStackInvertedLists(lists.size(), lists.data())
    index.replace_invlists(stacked, False)
    index.ntotal = sum(part.ntotal for part in parts)
    index.referenced_objects = [*index.referenced_objects, stacked, *parts]  # FAISS does not keep them alive
    return index


def add(
    index: faiss.IndexIVF, q: NDArray[Any], quantization: Quantization, first: int, cell: NDArray[np.integer]
) -> None:
    """Add keys as they are stored, (n, P), numbered from `first`, to the cells that they were assigned to."""
    searched = to_search(q, quantization)
    ids = np.arange(first, first + len(q), dtype=np.int64)
    lists = cell.astype(np.int64)
    index.add_core(len(q), *map(faiss.swig_ptr, (searched, ids, lists)))


def to_search(q: NDArray[Any], quantization: Quantization) -> NDArray[np.float32]:
    """Keys or queries in steps, (n, P), as FAISS is given them, (n, P or more).

    Bytes FAISS compares fast if there is a multiple of 8 of them, but of 16, where it would round queries to
    bytes: there are zeros at their ends.
    """
    more = -(q.shape[1] + 8) % 16 if quantization.dtype == np.uint8 else 0
    return np.ascontiguousarray(np.pad(q, [(0, 0), (0, more)]), np.float32)


def _over(searched: NDArray[np.float32], *, in_bytes: bool) -> faiss.IndexIVF:
    count, length = searched.shape
    quantizer = faiss.IndexFlatL2(length)
    quantizer.add(searched)
    if in_bytes:
        kind = faiss.ScalarQuantizer.QT_8bit_direct
        index = faiss.IndexIVFScalarQuantizer(quantizer, length, count, kind, faiss.METRIC_L2, False)
    else:
        index = faiss.IndexIVFFlat(quantizer, length, count)
    index.is_trained = True
    return index


def _centroids(index: faiss.IndexIVF) -> NDArray[np.float32]:
    """The centroids as they are searched."""
    centroids: NDArray[np.float32] = index.quantizer.reconstruct_n(0, index.nlist)
    return centroids


def _is_in_bytes(index: faiss.IndexIVF) -> bool:
    return isinstance(index, faiss.IndexIVFScalarQuantizer)
