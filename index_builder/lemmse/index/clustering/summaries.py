"""What leaves look like from afar, from one reading of their keys: moments, and sketches of the keys."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lemmse.index.clustering.moments import Basis, Moments
from lemmse.index.clustering.sketches import SketchedKeys
from lemmse.index.ranges import split_ranges

__all__ = ["summarize_leaves"]

_Rows = Callable[[int, int], NDArray[np.float32]]


def summarize_leaves(
    keys: _Rows,
    targets: _Rows,
    leaves: NDArray[np.integer],
    copies: NDArray[np.integer],
    *,
    basis: Basis,
    sketching: bool,
    held: int,
) -> tuple[Moments, SketchedKeys | None]:
    """Moments of leaves along the basis, and sketches of their keys if these are asked for.

    Parameters
    ----------
    keys, targets : callables
        Keys start … stop − 1, (n, P), and targets of the training patches start … stop − 1, (n, T).
    leaves : int, (L + 1,)
        Leaf l holds the keys leaves[l] … leaves[l + 1] − 1, one at least.
    copies : int, (U + 1,)
        Key i has the targets copies[i] … copies[i + 1] − 1, one at least.
    basis : Basis
        Principal axes of the keys.
    sketching : bool
        Whether sketches are wanted.
    held : int
        Keys to hold at a time, but for a single leaf.
    """
    moments, sketches = [], []
    for first, end in split_ranges(leaves, held):
        start, stop = leaves[[first, end]].tolist()
        v, own = basis.rotate(keys(start, stop)), copies[start : stop + 1]
        edges = leaves[first : end + 1] - start
        moments.append(Moments.of(v, targets(int(own[0]), int(own[-1])), edges, own - own[0]))
        if sketching:
            sketches.append(SketchedKeys.of(v, edges))
    return Moments.join(moments), SketchedKeys.join(sketches) if sketching else None
