"""Arrays in compressed chunks, read such that each chunk is decoded only once."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.index.files.limits import MAX_PIXELS

__all__ = ["Chunked"]

_MOST = MAX_PIXELS
"""Largest number of values to keep."""


class Chunked:
    """An array in chunks, whose planes are read in order.

    Where the chunks hold several planes, all of those planes are decoded and kept until another chunk is
    needed, unless they are too large.

    Parameters
    ----------
    array : array of Zarr or h5py
        The array.
    chunks : tuple of int
        Shape of its chunks.
    """

    def __init__(self, array: Any, chunks: tuple[int, ...]) -> None:
        self._array = array
        self._chunks = chunks
        self._part: tuple[slice, ...] | None = None
        self._numbers: NDArray[Any] = np.empty(0)

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        part, inner = [], []
        for i, chunk, length in zip(index, self._chunks, self._array.shape, strict=True):
            if isinstance(i, slice):
                part.append(slice(*i.indices(length)[:2]))
                inner.append(slice(None))
            else:
                start = i - i % chunk
                part.append(slice(start, min(start + chunk, length)))
                inner.append(i - start)
        if prod(own.stop - own.start for own in part) > _MOST:
            return self._array[index]
        if self._part != tuple(part):
            self._numbers = np.asarray(self._array[tuple(part)])
            self._part = tuple(part)
        return self._numbers[tuple(inner)]
