"""Detection of equal keys, which are stored and summed once with their multiplicity.

Flat regions of images have many equal keys. Keys are compared by a hash first.
"""

import numpy as np
from numpy.typing import NDArray

from lemmse.index.ranges import row_slices

__all__ = ["first_equal"]

_SEED = 0
"""Seed for the factors of the hash; the result does not depend on it."""


def first_equal(v: NDArray[np.float32], group: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return, for each row, the number of the first row with the same key and group, int64, (n,).

    If different keys have the same hash, all are compared with the first of them only; those that differ from
    it are returned as distinct even if they equal each other. This costs some time in sums but does not
    change them.

    Parameters
    ----------
    v : float32, (n, P)
        The keys; they are equal if their bytes are equal.
    group : int, (n,)
        The group of each key; keys of different groups are distinct.

    Examples
    --------
    >>> first_equal(np.float32([[1, 2], [3, 4], [1, 2], [1, 2]]), np.array([0, 0, 0, 1]))
    array([0, 1, 0, 3])
    """
    hashes = _hashes(v, group)
    order = np.argsort(hashes, kind="stable")
    begins = np.flatnonzero(np.concatenate([[True], np.diff(hashes[order]) != 0])[: len(v)])
    leader = np.repeat(order[begins], np.diff(np.append(begins, len(order))))
    followers = np.flatnonzero(leader != order)
    for chunk in row_slices(len(followers)):
        some = followers[chunk]
        a, b = order[some], leader[some]
        equal = (v[a].view(np.uint32) == v[b].view(np.uint32)).all(axis=1) & (group[a] == group[b])
        leader[some[~equal]] = a[~equal]
    first = np.empty_like(leader)
    first[order] = leader
    return first


def _hashes(v: NDArray[np.float32], group: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return a hash of each key with its group: the sum of its words times odd factors, uint64, (n,)."""
    hashes = group.astype(np.uint64)
    factors = 2 * np.random.default_rng(_SEED).integers(2**63, size=v.shape[1], dtype=np.uint64) + 1
    for chunk in row_slices(len(v)):
        hashes[chunk] += v[chunk].view(np.uint32).astype(np.uint64) @ factors
    return hashes
