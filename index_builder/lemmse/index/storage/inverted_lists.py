"""FAISS inverted files of quantized keys, over the cells of an index."""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from lemmse.index.storage.quantization import Quantization

__all__ = ["add", "empty_copy", "empty_index", "stack", "to_search"]


def empty_index(centroids: NDArray[np.float32], quantization: Quantization) -> faiss.IndexIVF:
    """Return an inverted file with these cells and no keys.

    Keys and queries are in quantization steps. Keys quantized to uint8 are stored as bytes, others as
    float32.
    """
    return _over(
        to_search(quantization.steps(centroids), quantization), in_bytes=quantization.dtype == np.uint8
    )


def empty_copy(index: faiss.IndexIVF) -> faiss.IndexIVF:
    """Return an inverted file with the same cells and no keys."""
    return _over(_centroids(index), in_bytes=_is_in_bytes(index))


def stack(indexes: Sequence[faiss.IndexIVF]) -> faiss.IndexIVF:
    """Return a view that combines several inverted files, in which each file numbers its keys from 0."""
    index = _over(np.concatenate([_centroids(part) for part in indexes]), in_bytes=_is_in_bytes(indexes[0]))
    lists = faiss.InvertedListsPtrVector()
    for part in indexes:
        lists.push_back(part.invlists)
    stacked = faiss.VStackInvertedLists(lists.size(), lists.data())
    index.replace_invlists(stacked, False)
    index.ntotal = sum(part.ntotal for part in indexes)
    index.referenced_objects = [
        *index.referenced_objects,
        stacked,
        *indexes,
    ]  # FAISS does not keep references to them
    return index


def add(
    index: faiss.IndexIVF, q: NDArray[Any], quantization: Quantization, first: int, cell: NDArray[np.integer]
) -> None:
    """Add quantized keys, (n, P), numbered from `first`, to their cells, (n,)."""
    searched = to_search(q, quantization)
    ids = np.arange(first, first + len(q), dtype=np.int64)
    lists = cell.astype(np.int64)
    index.add_core(len(q), *map(faiss.swig_ptr, (searched, ids, lists)))


def to_search(q: NDArray[Any], quantization: Quantization) -> NDArray[np.float32]:
    """Return keys or queries in steps, (n, P), in the form for FAISS: float32, possibly padded with zeros.

    FAISS compares bytes quickly if their number is a multiple of 8, but rounds queries to bytes if it is a
    multiple of 16. Therefore uint8 keys are padded to an odd multiple of 8.
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
    """Return the centroids in steps, in the form in which FAISS stores them."""
    centroids: NDArray[np.float32] = index.quantizer.reconstruct_n(0, index.nlist)
    return centroids


def _is_in_bytes(index: faiss.IndexIVF) -> bool:
    return isinstance(index, faiss.IndexIVFScalarQuantizer)
