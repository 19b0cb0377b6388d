"""The tree of an index: cells and the leaves within them, with their summary statistics.

The statistics are along the principal axes of the keys; for masks and noise maps, a copy is along the pixels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.index import Index
from lemmse.index.clustering.groups import Groups, first_blocks
from lemmse.index.clustering.moments import Basis

__all__ = ["Tree", "load_tree"]


class Tree(NamedTuple):
    """The nonempty cells, and their leaves."""

    cells: Groups
    leaves: Groups
    strata_blocks: NDArray[np.int64]
    """Stratum s has the blocks strata_blocks[s] … strata_blocks[s + 1] − 1 of cells."""
    cell_blocks: NDArray[np.int64]
    """Cell g has the blocks cell_blocks[g] … cell_blocks[g + 1] − 1 of leaves."""
    cell_leaves: NDArray[np.int64]
    """Cell g has the leaves cell_leaves[g] … cell_leaves[g + 1] − 1."""
    leaf_keys: NDArray[np.int64]
    """Leaf l has the keys leaf_keys[l] … leaf_keys[l + 1] − 1."""

    def along_pixels(self, basis: Basis) -> "Tree":
        """Return the tree with its summary statistics along the pixels."""
        return self._replace(cells=self.cells.along_pixels(basis), leaves=self.leaves.along_pixels(basis))


def load_tree(index: Index) -> Tree:
    """Return the tree of an index."""
    cell_leaves = index.nonempty_cell_leaves
    strata = np.searchsorted(index.nonempty_cells, index.stratum_cells)
    n = np.diff(index.leaf_patches[cell_leaves])
    return Tree(
        cells=Groups.of(index.cell_moments(), n, strata),
        leaves=index.leaf_groups(),
        strata_blocks=first_blocks(strata),
        cell_blocks=first_blocks(cell_leaves),
        cell_leaves=cell_leaves,
        leaf_keys=index.leaf_keys,
    )
