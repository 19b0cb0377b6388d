"""FAISS inverted files of quantized keys, over the cells of an index."""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from lemmse.index.storage.quantization import Quantization

__all__ = ["add", "code_size", "empty_copy", "empty_index", "pinned", "to_search"]


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


class _PinnedLists(faiss.OnDiskInvertedLists):  # type: ignore[misc]
    """Inverted lists in memory that belongs to an array.

    FAISS has no public way to use such memory; its lists of mapped files have one address, and the place of
    each list from there.
    """

    def __init__(
        self, region: NDArray[np.uint8], begins: NDArray[np.int64], sizes: NDArray[np.int64], code: int
    ):
        super().__init__()
        self.region = region  # stays while the lists are used
        self.nlist, self.code_size = len(sizes), code
        self.read_only = True
        self.prefetch_nthread = 0  # what is searched is in memory, or read while it is searched
        for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
            one = faiss.OnDiskOneList()
            one.size = one.capacity = size
            one.offset = begin
            self.lists.push_back(one)
        self.totsize = region.nbytes
        self.ptr = faiss.swig_ptr(region)

    def __del__(self) -> None:
        self.ptr = None  # otherwise FAISS would unmap it


def code_size(length: int, quantization: Quantization) -> int:
    """Return the number of bytes in which FAISS stores a quantized key of this length."""
    in_bytes = quantization.dtype == np.uint8
    return length + _padding(length, quantization) if in_bytes else 4 * length


def pinned(
    centroids: NDArray[np.float32],
    quantization: Quantization,
    sizes: Sequence[NDArray[np.int64]],
    files: Sequence[NDArray[np.uint8]],
) -> faiss.IndexIVF:
    """Return an inverted file over the lists at the end of files, which stay where they are.

    What else is in the files, which FAISS would have to trust, is not read.

    Parameters
    ----------
    centroids : float32, (n, P)
        The centroids of all cells.
    quantization : Quantization
        The quantization of the keys.
    sizes : sequence of int64
        The number of keys in each cell, for each file.
    files : sequence of uint8
        The contents of the files, parts of one array in ascending order: a FAISS inverted file ends with its
        lists, each the codes of its keys followed by their numbers in 8 bytes each.
    """
    index = empty_index(centroids, quantization)
    address, begins = files[0].ctypes.data, []
    for file, own in zip(files, sizes, strict=True):
        ends = np.cumsum(own * (index.code_size + 8))
        first = file.ctypes.data - address + file.nbytes - int(ends[-1])
        begins.append(first + np.concatenate([[0], ends[:-1]]))
    end = files[-1].ctypes.data + files[-1].nbytes
    region = np.lib.stride_tricks.as_strided(files[0], (end - address,), (1,))
    lists = _PinnedLists(region, np.concatenate(begins), np.concatenate(sizes), index.code_size)
    index.replace_invlists(lists, False)
    index.ntotal = int(sum(own.sum() for own in sizes))
    index.referenced_objects = [*index.referenced_objects, lists]  # FAISS does not keep references to them
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
    more = _padding(q.shape[1], quantization)
    return np.ascontiguousarray(np.pad(q, [(0, 0), (0, more)]), np.float32)


def _padding(length: int, quantization: Quantization) -> int:
    return -(length + 8) % 16 if quantization.dtype == np.uint8 else 0


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
