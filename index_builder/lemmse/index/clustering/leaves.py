"""Leaves: groups of some tens of neighbouring keys of a cell.

Leaves from k-means have less variance than leaves from bisection along axes, and the accuracy of the summary
statistics of a leaf depends on its variance.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAF", "split"]

LEAF = 48
"""Mean number of keys in a leaf."""
_FANOUT = 96
"""Largest number of leaves of one k-means, whose cost is quadratic in it; more leaves take two rounds."""
_ITERATIONS = 8


def split(v: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    """Split the keys of a cell into leaves.

    Parameters
    ----------
    v : float32, (n, P)
        The keys of a cell.
    seed : int
        Seed of the clustering.

    Returns
    -------
    int64, (n,)
        Leaf of each key, numbered from 0 without gaps. If all keys of a cell are equal, it has one leaf.

    Examples
    --------
    >>> split(np.repeat(np.eye(2, dtype=np.float32), 100, axis=0), seed=0)[[0, 99, 100, 199]]
    array([0, 0, 1, 1])
    """
    leaf = np.zeros(len(v), np.int64)
    count = round(len(v) / LEAF)
    if count < 2 or (v == v[0]).all():
        return leaf
    rounds = 1 if count <= _FANOUT else 2
    group = _kmeans(v, count if rounds == 1 else min(_FANOUT, round(count**0.5)), seed)
    if rounds == 1 or group.max() == 0:
        return group
    first = 0
    for number in range(group.max() + 1):
        rows = np.flatnonzero(group == number)
        leaf[rows] = first + split(v[rows], seed)
        first = leaf[rows].max() + 1
    return leaf


def _kmeans(v: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    """Return the group of each key, numbered from 0 without gaps."""
    kmeans = faiss.Kmeans(
        v.shape[1],
        count,
        niter=_ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=256,
    )
    kmeans.train(v)
    return np.unique(kmeans.index.search(v, 1)[1][:, 0], return_inverse=True)[1]
