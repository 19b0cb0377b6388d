"""Assign the patches of a block of images to cells, in the first of the two passes over all patches."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemmse.index.building.key_model import KeyModel
from lemmse.index.clustering import cells
from lemmse.index.clustering.distinct import first_equal
from lemmse.index.patches.block import PatchBlock
from lemmse.index.ranges import row_slices
from lemmse.index.storage.durable import sync
from lemmse.index.storage.quantization import quantizations

__all__ = ["Assignment", "assign"]


class Assignment:
    """The patches of a block, sorted by cell and stored in files.

    Parameters
    ----------
    folder : Path
        Folder of the files.
    block : int
        Number of the block.
    """

    def __init__(self, folder: Path, block: int) -> None:
        self._offsets = folder / f"{block:06}.offsets.npy"
        self._rows = folder / f"{block:06}.rows.npy"
        self._fits = folder / f"{block:06}.fits.npy"

    @property
    def complete(self) -> bool:
        """Whether all files have been written."""
        return self._offsets.exists()

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Start of each cell in the sorted order, followed by the number of patches, (n + 1,)."""
        offsets: NDArray[np.int64] = np.load(self._offsets)
        return offsets

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the numbers of the patches at sorted positions start … stop − 1, ascending in each cell."""
        rows = np.load(self._rows, mmap_mode="r")[start:stop]
        return np.asarray(rows, np.int64)

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Mask of the quantizations of `quantizations` that fit all keys of the block."""
        fits: NDArray[np.bool_] = np.load(self._fits)
        return fits

    def write(self, cell: NDArray[np.int64], count: int, fits: NDArray[np.bool_]) -> None:
        """Write the cell of each patch, out of `count` cells, and the mask of quantizations that fit."""
        order = np.argsort(cell, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=count))])
        arrays = ((self._fits, fits), (self._rows, order.astype(np.uint32)), (self._offsets, offsets))
        for path, array in arrays:  # offsets are last, since they mark completion
            staged = path.with_suffix(".new")
            with staged.open("wb") as file:
                np.save(file, array)
            sync(staged)
            staged.replace(path)


def assign(patches: PatchBlock, model: KeyModel) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the cell of each patch, (len(patches),), and a mask of the quantizations that fit all keys."""
    cell = np.empty(len(patches), np.int64)
    candidates = quantizations(patches.pixels)
    fits = np.ones(len(candidates), np.bool_)
    by_stratum = np.argsort(patches.stratum, kind="stable")
    for chunk in row_slices(len(patches)):
        rows = by_stratum[chunk]
        v, stratum = patches.keys(rows), patches.stratum[rows]
        fits &= np.array(
            [still and quantization.fits(v) for still, quantization in zip(fits, candidates, strict=True)]
        )
        first = first_equal(v, stratum)  # search equal keys once
        for number in np.unique(stratum):
            own = np.flatnonzero((stratum == number) & (first == np.arange(len(rows))))
            begin, end = model.stratum_cells[number : number + 2]
            cell[rows[own]] = begin + cells.nearest(v[own], model.centroids[begin:end])
        cell[rows] = cell[rows[first]]
    return cell, fits
