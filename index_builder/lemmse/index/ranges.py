"""Groups that follow each other, taken some at a time."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["split_ranges"]


def split_ranges(edges: NDArray[np.integer], most: int) -> list[tuple[int, int]]:
    """Ranges of whole groups: of so many items each at most, or of one group that has any.

    Parameters
    ----------
    edges : int, (G + 1,)
        Group g holds the items edges[g] … edges[g + 1] − 1.
    most : int
        Items of a range, but for a single group.

    Examples
    --------
    >>> split_ranges(np.array([0, 3, 5, 5, 20, 21]), 6)
    [(0, 3), (3, 4), (4, 5)]
    >>> split_ranges(np.array([0, 20, 20]), 6)
    [(0, 2)]
    """
    firsts = [0]
    while firsts[-1] < len(edges) - 1:
        done = edges[firsts[-1]]
        one = int(np.searchsorted(edges, done, side="right"))
        several = int(np.searchsorted(edges, done + most, side="right")) - 1
        firsts.append(min(max(one, several), len(edges) - 1))
    while len(firsts) > 2 and edges[firsts[-2]] == edges[-1]:
        del firsts[-2]  # what is left is empty, and belongs to those before
    return list(pairwise(firsts))
