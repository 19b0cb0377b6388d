"""Ranges of rows and of groups of rows, for processing a bounded number at a time."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHUNK", "joined_ranges", "row_slices", "split_ranges"]

CHUNK = 16_384
"""Number of rows processed at a time, and of rows in a chunk of a Zarr array."""


def row_slices(count: int, most: int | None = None) -> Iterator[slice]:
    """Return an iterator over slices that cover `count` rows in order, of at most `most` rows each.

    By default, `most` is `CHUNK`.

    Examples
    --------
    >>> list(row_slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = CHUNK if most is None else most
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def split_ranges(offsets: NDArray[np.integer], most: int) -> list[tuple[int, int]]:
    """Return ranges of consecutive groups with at most `most` items each.

    A group with more items is a range by itself. Empty groups at the end belong to the last range.

    Parameters
    ----------
    offsets : int, (G + 1,)
        Group g contains items offsets[g] … offsets[g + 1] − 1.
    most : int
        Largest number of items in a range of several groups.

    Returns
    -------
    list of (int, int)
        First group of each range, and the first group after it.

    Examples
    --------
    >>> split_ranges(np.array([0, 3, 5, 5, 20, 21]), 6)
    [(0, 3), (3, 4), (4, 5)]
    >>> split_ranges(np.array([0, 20, 20]), 6)
    [(0, 2)]
    """
    firsts = [0]
    while firsts[-1] < len(offsets) - 1:
        start = offsets[firsts[-1]]
        one = int(np.searchsorted(offsets, start, side="right"))
        several = int(np.searchsorted(offsets, start + most, side="right")) - 1
        firsts.append(min(max(one, several), len(offsets) - 1))
    while len(firsts) > 2 and offsets[firsts[-2]] == offsets[-1]:
        del firsts[-2]  # the groups after it are empty
    return list(pairwise(firsts))


def joined_ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the numbers starts[i] … starts[i] + counts[i] − 1 for each i, one range after the other.

    Examples
    --------
    >>> joined_ranges(np.array([7, 2]), np.array([3, 2]))
    array([7, 8, 9, 2, 3])
    """
    before = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    numbers: NDArray[np.int64] = np.arange(before[-1]) + np.repeat(starts - before[:-1], counts)
    return numbers
