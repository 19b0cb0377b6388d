"""Equal keys: they are stored and summed once, with their number.

Flat parts of images give many equal patches. Keys are told apart by a hash; those of one hash are compared.
"""

import numpy as np
from numpy.typing import NDArray

from lemmse.index.storage import zarr_store

__all__ = ["first_equal"]

_SEED = 0
"""Of the factors of the hash; which keys are equal does not depend on it."""


def first_equal(v: NDArray[np.float32], group: NDArray[np.integer]) -> NDArray[np.int64]:
    """The first row that has the key and the group of each row, (n,).

    Keys that differ may have one hash. Those that are not the first of their hash, nor equal to it, are taken
    for distinct, which is as right and a little more work for those who sum them.

    Parameters
    ----------
    v : float32, (n, P)
        Keys. Equal is what has equal bytes.
    group : int, (n,)
        Equal keys of different groups are told apart.

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
    for start in range(0, len(followers), zarr_store.CHUNK):
        some = followers[start : start + zarr_store.CHUNK]
        a, b = order[some], leader[some]
        equal = (v[a].view(np.uint32) == v[b].view(np.uint32)).all(axis=1) & (group[a] == group[b])
        leader[some[~equal]] = a[~equal]
    first = np.empty_like(leader)
    first[order] = leader
    return first


def _hashes(v: NDArray[np.float32], group: NDArray[np.integer]) -> NDArray[np.uint64]:
    """A hash of each key and its group: its words times odd numbers, summed, (n,)."""
    hashes = group.astype(np.uint64)
    factors = 2 * np.random.default_rng(_SEED).integers(2**63, size=v.shape[1], dtype=np.uint64) + 1
    for start in range(0, len(v), zarr_store.CHUNK):
        words = v[start : start + zarr_store.CHUNK].view(np.uint32)
        hashes[start : start + len(words)] += words.astype(np.uint64) @ factors
    return hashes
