"""Assign the patches of a block of images to cells: the first of the two passes over all patches."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemmse.index.building.key_model import KeyModel
from lemmse.index.clustering import cells
from lemmse.index.clustering.distinct import first_equal
from lemmse.index.patches.block import Patches
from lemmse.index.storage import zarr_store
from lemmse.index.storage.durable import sync
from lemmse.index.storage.quantization import quantizations

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
        """Which of the quantizations the keys of the block fit."""
        fits: NDArray[np.bool_] = np.load(self._fits)
        return fits

    def write(self, cell: NDArray[np.int64], count: int, fits: NDArray[np.bool_]) -> None:
        """Store the cell of each patch, of so many cells, and which quantizations fit."""
        order = np.argsort(cell, kind="stable")
        edges = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=count))])
        parts = ((self._fits, fits), (self._rows, order.astype(np.uint32)), (self._edges, edges))
        for path, array in parts:  # the edges last
            staged = path.with_suffix(".new")
            with staged.open("wb") as file:
                np.save(file, array)
            sync(staged)
            staged.replace(path)


def assign(patches: Patches, groundwork: KeyModel) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The cell of each patch, (len(patches),), and which of the quantizations fit all their keys."""
    cell = np.empty(len(patches), np.int64)
    possible = quantizations(patches.p**2)
    fits = np.ones(len(possible), np.bool_)
    by_stratum = np.argsort(patches.stratum, kind="stable")
    for start in range(0, len(patches), zarr_store.CHUNK):
        rows = by_stratum[start : start + zarr_store.CHUNK]
        v, stratum = patches.keys(rows), patches.stratum[rows]
        fits &= np.array(
            [still and quantization.fits(v) for still, quantization in zip(fits, possible, strict=True)]
        )
        # Of equal keys one is looked up.
        first = first_equal(v, stratum)
        for number in np.unique(stratum):
            own = np.flatnonzero((stratum == number) & (first == np.arange(len(rows))))
            begin, end = groundwork.strata_cells[number : number + 2]
            cell[rows[own]] = begin + cells.nearest(v[own], groundwork.centroids[begin:end])
        cell[rows] = cell[rows[first]]
    return cell, fits
