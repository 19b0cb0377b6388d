"""The distinct keys among the training patches: equal keys are stored and summed once, with their number.

Flat parts of images give many equal patches. Keys are told apart by a hash, so that what is held at a time is
a few numbers for each patch and a chunk of keys; those of one hash are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.index import store
from lemmse.index.patches import Patches

__all__ = ["DistinctKeys"]

_SEED = 0
"""Of the factors of the hash; which keys are equal does not depend on it."""


@dataclass(frozen=True, slots=True)
class DistinctKeys:
    """The U distinct keys of M patches, numbered in the order of their first patches."""

    patches: Patches
    rows: NDArray[np.int64]
    """The patches by key, those of one key in ascending order, (M,)."""
    first: NDArray[np.int64]
    """Key i is that of the patches rows[first[i]] … rows[first[i + 1] − 1], (U + 1,)."""

    @classmethod
    def of(cls, patches: Patches, progress: Callable[[int], None] = lambda done: None) -> "DistinctKeys":
        """Find the distinct keys; `progress` is told the number of patches that were looked at."""
        same_as = _first_equal(patches, progress)
        rows = np.argsort(same_as, kind="stable")
        return cls(patches, rows, np.append(_beginnings(same_as[rows]), len(rows)))

    def __len__(self) -> int:
        """Number of distinct keys, U."""
        return len(self.first) - 1

    @property
    def stratum(self) -> NDArray[np.int64]:
        """Stratum of each key, (U,)."""
        return self.patches.stratum[self.rows[self.first[:-1]]]

    def cut(self, keys: NDArray[np.integer]) -> NDArray[np.float32]:
        """Keys by number, white, (len(keys), P)."""
        return self.patches.keys(self.rows[self.first[keys]])

    def counts(self, keys: NDArray[np.integer]) -> NDArray[np.int64]:
        """How many patches have each of these keys, (len(keys),)."""
        counts: NDArray[np.int64] = self.first[keys + 1] - self.first[keys]
        return counts

    def copies(self, keys: NDArray[np.integer]) -> NDArray[np.int64]:
        """The patches that have these keys, one key after the other, (Σ counts,)."""
        counts = self.counts(keys)
        skipped = self.first[keys] - np.concatenate([[0], counts.cumsum()[:-1]])
        rows: NDArray[np.int64] = self.rows[np.arange(counts.sum()) + np.repeat(skipped, counts)]
        return rows


def _first_equal(patches: Patches, progress: Callable[[int], None]) -> NDArray[np.int64]:
    """The first patch whose key each patch has, (M,).

    Keys that differ may have one hash. Those that are not the first of their hash, nor equal to it, are taken
    for distinct, which is as right and a little more work for those who sum them.
    """
    hashes = _hashes(patches, progress)
    order = np.argsort(hashes, kind="stable")
    begins = _beginnings(hashes[order])
    leader = np.repeat(order[begins], np.diff(np.append(begins, len(order))))
    followers = np.flatnonzero(leader != order)
    for start in range(0, len(followers), store.CHUNK):
        some = followers[start : start + store.CHUNK]
        a, b = order[some], leader[some]
        equal = (patches.keys(a).view(np.uint32) == patches.keys(b).view(np.uint32)).all(axis=1)
        other = some[~(equal & (patches.stratum[a] == patches.stratum[b]))]
        leader[other] = order[other]
    same_as = np.empty_like(leader)
    same_as[order] = leader
    return same_as


def _hashes(patches: Patches, progress: Callable[[int], None]) -> NDArray[np.uint64]:
    """A hash of the key and the stratum of each patch: its words times odd numbers, summed, (M,)."""
    hashes = patches.stratum.astype(np.uint64)
    factors = 2 * np.random.default_rng(_SEED).integers(2**63, size=patches.length, dtype=np.uint64) + 1
    for start in range(0, len(patches), store.CHUNK):
        stop = min(start + store.CHUNK, len(patches))
        words = patches.keys(np.arange(start, stop)).view(np.uint32)
        hashes[start:stop] += words.astype(np.uint64) @ factors
        progress(stop)
    return hashes


def _beginnings(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """Where runs of equal values begin."""
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
