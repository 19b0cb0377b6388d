"""The groups of an index: cells and the leaves within them, seen by their moments.

Keys lie along their principal axes here, and coordinates are filled up with zeros: loops over them then run
in whole vector instructions, of which an odd end takes longer than all zeros do.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.index import Basis, Index, Moments

__all__ = ["Groups", "Tree", "filled", "load_tree"]

_LANES = 64
"""Coordinates that one round of a vectorised loop takes."""


class Groups(NamedTuple):
    """G groups of keys."""

    n: NDArray[np.float32]
    """Number of keys, (G,)."""
    mean: NDArray[np.float32]
    """Mean key μ, (G, P or more)."""
    variance: NDArray[np.float32]
    """Variances D, (G, P or more)."""
    target: NDArray[np.float32]
    """Mean target t̄, (G, T)."""
    target_variance: NDArray[np.float32]
    """Variance of the target, (G, T)."""
    cross: NDArray[np.float32]
    """Cov(t, v), (G, T, P or more)."""
    low: NDArray[np.float32]
    """Least of each leading coordinate, and of the norm of the others, (G, E)."""
    high: NDArray[np.float32]
    """Greatest of these, (G, E)."""
    target_low: NDArray[np.float32]
    """Least target, (G, T)."""
    target_high: NDArray[np.float32]
    """Greatest target, (G, T)."""

    @classmethod
    def of(cls, moments: Moments, n: NDArray[np.integer]) -> "Groups":
        """Groups of n keys each, with these moments."""
        return cls(
            n=n.astype(np.float32),
            mean=filled(moments.mean),
            variance=filled(moments.variance),
            target=moments.target,
            target_variance=moments.target_variance,
            cross=filled(moments.cross),
            low=moments.low,
            high=moments.high,
            target_low=moments.target_low,
            target_high=moments.target_high,
        )


@dataclass(frozen=True, slots=True)
class Tree:
    """Cells that have keys, and their leaves."""

    cells: Groups
    leaves: Groups
    cell_leaves: NDArray[np.int64]
    """Cell g holds the leaves cell_leaves[g] … cell_leaves[g + 1] − 1."""
    leaf_keys: NDArray[np.int64]
    """Leaf l holds the keys leaf_keys[l] … leaf_keys[l + 1] − 1."""
    strata: NDArray[np.int64]
    """First cell of each stratum, and the number of cells, (S + 1,)."""
    basis: Basis
    """The principal axes."""


def filled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The last axis filled up with zeros to a multiple of _LANES."""
    missing = -values.shape[-1] % _LANES
    return np.ascontiguousarray(np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)]))


def load_tree(index: Index) -> Tree:
    """Read the groups of an index."""
    moments = index.moments()
    n = np.diff(index.leaves)
    kept = np.flatnonzero(np.diff(index.cell_leaves))  # k-means may leave a cell empty
    cell_leaves = index.cell_leaves[[*kept, len(index.cell_leaves) - 1]]
    return Tree(
        cells=Groups.of(Moments.merge(moments, n, cell_leaves), np.add.reduceat(n, cell_leaves[:-1])),
        leaves=Groups.of(moments, n),
        cell_leaves=cell_leaves,
        leaf_keys=index.leaves,
        strata=np.searchsorted(kept, index.strata_cells),
        basis=index.basis,
    )
