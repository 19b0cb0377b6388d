"""Summary statistics of leaves, computed in one pass over their keys."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lemmse.index.clustering.moments import Basis, Moments
from lemmse.index.ranges import split_ranges

__all__ = ["summarize_leaves"]

_Rows = Callable[[int, int], NDArray[np.float32]]


def summarize_leaves(
    keys: _Rows,
    targets: _Rows,
    leaf_keys: NDArray[np.integer],
    key_patches: NDArray[np.integer],
    *,
    basis: Basis,
    most: int,
) -> Moments:
    """Return the summary statistics of leaves in a basis.

    Parameters
    ----------
    keys, targets : callables
        Called as `keys(start, stop)`; they return keys, (n, P), and targets of training patches, (n, T).
    leaf_keys : int, (L + 1,)
        Leaf l has keys leaf_keys[l] … leaf_keys[l + 1] − 1, at least one.
    key_patches : int, (U + 1,)
        Key i has patches key_patches[i] … key_patches[i + 1] − 1, at least one.
    basis : Basis
        The PCA basis of the keys.
    most : int
        Largest number of keys in memory at a time, unless a single leaf has more.
    """
    moments = []
    for first, end in split_ranges(leaf_keys, most):
        start, stop = leaf_keys[[first, end]].tolist()
        v, patches = basis.rotate(keys(start, stop)), key_patches[start : stop + 1]
        own = leaf_keys[first : end + 1] - start
        moments.append(Moments.of(v, targets(int(patches[0]), int(patches[-1])), own, patches - patches[0]))
    return Moments.join(moments)
