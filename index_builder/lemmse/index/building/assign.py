"""Assign the patches of a block of images to cells: the first of the two passes over all patches."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemmse.index import cells, store
from lemmse.index.building.groundwork import Groundwork
from lemmse.index.coding import codings
from lemmse.index.distinct import first_equal
from lemmse.index.durable import sync
from lemmse.index.patches import Patches

__all__ = ["Assignment", "assign"]


class Assignment:
    """The patches of a block by cell, as they lie in a folder.

    Parameters
    ----------
    folder : Path
        The folder.
    block : int
        Number of the block.
    """

    def __init__(self, folder: Path, block: int) -> None:
        self._edges = folder / f"{block:06}.edges.npy"
        self._rows = folder / f"{block:06}.rows.npy"
        self._fits = folder / f"{block:06}.fits.npy"

    @property
    def done(self) -> bool:
        """Whether it is there."""
        return self._edges.exists()

    @property
    def edges(self) -> NDArray[np.int64]:
        """First place of each cell, and the number of patches of the block, (n + 1,)."""
        edges: NDArray[np.int64] = np.load(self._edges)
        return edges

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Numbers in the block of the patches at places start … stop − 1, those of one cell ascending."""
        rows = np.load(self._rows, mmap_mode="r")[start:stop]
        return np.asarray(rows, np.int64)

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Which of the codings the keys of the block fit."""
        fits: NDArray[np.bool_] = np.load(self._fits)
        return fits

    def write(self, cell: NDArray[np.int64], count: int, fits: NDArray[np.bool_]) -> None:
        """Store the cell of each patch, of so many cells, and which codings fit."""
        order = np.argsort(cell, kind="stable")
        edges = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=count))])
        parts = ((self._fits, fits), (self._rows, order.astype(np.uint32)), (self._edges, edges))
        for path, array in parts:  # the edges last
            staged = path.with_suffix(".new")
            with staged.open("wb") as file:
                np.save(file, array)
            sync(staged)
            staged.replace(path)


def assign(patches: Patches, groundwork: Groundwork) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The cell of each patch, (len(patches),), and which of the codings fit all their keys."""
    cell = np.empty(len(patches), np.int64)
    possible = codings(patches.p**2)
    fits = np.ones(len(possible), np.bool_)
    by_stratum = np.argsort(patches.stratum, kind="stable")
    for start in range(0, len(patches), store.CHUNK):
        rows = by_stratum[start : start + store.CHUNK]
        v, stratum = patches.keys(rows), patches.stratum[rows]
        fits &= np.array([still and coding.fits(v) for still, coding in zip(fits, possible, strict=True)])
        # Of equal keys one is looked up.
        first = first_equal(v, stratum)
        for number in np.unique(stratum):
            own = np.flatnonzero((stratum == number) & (first == np.arange(len(rows))))
            begin, end = groundwork.strata_cells[number : number + 2]
            cell[rows[own]] = begin + cells.nearest(v[own], groundwork.centroids[begin:end])
        cell[rows] = cell[rows[first]]
    return cell, fits
