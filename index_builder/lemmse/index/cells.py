"""Cells: the keys grouped by nearest centroid, and the FAISS index that searches them.

The centroids come from k-means on a sample of one stratum. Cells are numbered along the leading principal
component of their centroids, so that keys that follow each other in cell order are near each other: the exact
sum centres each run of keys on its own mean, which is what keeps its float32 products precise.
"""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from lemmse.index.coding import Coding

__all__ = [
    "SAMPLE_PER_CELL",
    "add",
    "cell_count",
    "emptied",
    "empty_index",
    "fit",
    "nearest",
    "stack",
    "to_search",
]

SAMPLE_PER_CELL = 64
"""Keys in the k-means sample, for each cell; FAISS warns below 39."""


def cell_count(keys: int) -> int:
    """Number of cells for M keys: the power of two nearest to √M.

    Examples
    --------
    >>> [cell_count(m) for m in (1, 10_000, 1_000_000, 10_240_000)]
    [1, 128, 1024, 4096]
    """
    return int(2 ** round(np.log2(max(1.0, np.sqrt(keys)))))


def fit(sample: NDArray[np.float32], cells: int, seed: int) -> NDArray[np.float32]:
    """Centroids of cells, in order, (cells, P).

    Parameters
    ----------
    sample : float32, shape (S, P)
        Keys drawn from all over the stratum, S >= cells.
    cells : int
        Number of cells.
    seed : int
        Seed of the clustering.
    """
    centroids: NDArray[np.float32] = sample.mean(axis=0, keepdims=True)
    if cells == 1:
        return centroids
    kmeans = faiss.Kmeans(sample.shape[1], cells, niter=10, seed=seed, min_points_per_centroid=1)
    kmeans.train(sample)
    centroids = kmeans.centroids
    axis = np.linalg.svd(centroids - centroids.mean(axis=0), full_matrices=False)[2][0]
    return centroids[np.argsort(centroids @ axis, kind="stable")]


def nearest(v: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number of the nearest centroid of each key, (len(v),)."""
    found: NDArray[np.int64] = faiss.knn(v, centroids, 1)[1][:, 0]
    return found


def empty_index(centroids: NDArray[np.float32], coding: Coding) -> faiss.IndexIVF:
    """An inverted-file index with these cells and no key.

    Keys and queries are searched in steps. Of keys in bytes FAISS has these, of others float32.
    """
    return _over(to_search(coding.steps(centroids), coding), in_bytes=coding.dtype == np.uint8)


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
    index: faiss.IndexIVF, q: NDArray[Any], coding: Coding, first: int, cell: NDArray[np.integer]
) -> None:
    """Add keys as they are stored, (n, P), numbered from `first`, to the cells that they were assigned to."""
    searched = to_search(q, coding)
    ids = np.arange(first, first + len(q), dtype=np.int64)
    lists = cell.astype(np.int64)
    index.add_core(len(q), *map(faiss.swig_ptr, (searched, ids, lists)))


def to_search(q: NDArray[Any], coding: Coding) -> NDArray[np.float32]:
    """Keys or queries in steps, (n, P), as FAISS is given them, (n, P or more).

    Bytes FAISS compares fast if there is a multiple of 8 of them, but of 16, where it would round queries to
    bytes: there are zeros at their ends.
    """
    more = -(q.shape[1] + 8) % 16 if coding.dtype == np.uint8 else 0
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
