"""An index as if some of its images had not been there: what is held out is then new to it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from lemmse.index.clustering.groups import Groups
from lemmse.index.clustering.mixture import Mixture, fit_mixture
from lemmse.index.clustering.moments import Moments, key_moments
from lemmse.index.clustering.sketches import Sketch, SketchedKeys
from lemmse.index.clustering.summaries import summarize_leaves
from lemmse.index.reading.index import Index
from lemmse.index.storage import inverted_lists, zarr_store
from lemmse.index.storage.packing import Packed

__all__ = ["HeldOutView", "leave_out"]

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class HeldOutView(Index):
    """A view of an index that lacks the keys of some images; cells and leaves stay as they were cut."""

    whole: Index
    """The index."""
    images_out: NDArray[np.int64]
    """Numbers of the images that are left out."""
    kept: NDArray[np.int64]
    """Keys of the index that are left, ascending."""
    kept_copies: NDArray[np.int64]
    """Training patches that are left, ascending."""

    @cached_property
    def packed_keys(self) -> Packed:
        """Keys that are left, as they are stored."""
        count, rows = len(self.kept), self.whole.packed_keys.rows
        starts = range(0, count, zarr_store.SHARD)
        return Packed.of(
            _left(self.kept, rows, start, min(start + zarr_store.SHARD, count)) for start in starts
        )

    @cached_property
    def packed_moments(self) -> Packed:
        """n, Σ t and Σ t² of the patches that are left of each."""
        return Packed.of([key_moments(self.targets(0, len(self.kept_copies)), self.copies)])

    @cached_property
    def counts(self) -> NDArray[np.integer]:
        """How many training patches that are left have each."""
        return np.diff(np.searchsorted(self.kept_copies, self.whole.copies))[self.kept]

    def patches_of(self, key: int) -> tuple[int, int]:
        """First of the training patches that are left of a key, and the first after them."""
        first, end = self.copies[key : key + 2].tolist()
        return first, end

    def targets(self, start: int, stop: int) -> NDArray[np.float32]:
        """Targets of training patches that are left, float32, shape (stop − start, C)."""
        return _left(self.kept_copies, self.whole.targets, start, stop)

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """Their training images, rows and columns, shape (stop − start, 3)."""
        return _left(self.kept_copies, self.whole.ids, start, stop)

    def symmetries(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Which copies of these they were cut from, shape (stop − start,)."""
        return _left(self.kept_copies, self.whole.symmetries, start, stop)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """First key of each cell, and the number of keys."""
        return np.searchsorted(self.kept, self.whole.cells)

    @cached_property
    def _filled(self) -> NDArray[np.int64]:
        """Leaves that still have keys."""
        return np.flatnonzero(np.diff(np.searchsorted(self.kept, self.whole.leaves)))

    @cached_property
    def leaves(self) -> NDArray[np.int64]:
        """First key of each leaf that has any, and the number of keys."""
        edges = np.searchsorted(self.kept, self.whole.leaves)
        return edges[[*self._filled, len(edges) - 1]]

    @cached_property
    def leaf_patches(self) -> NDArray[np.int64]:
        """First training patch that is left of each leaf that has any, and their number."""
        return self.copies[self.leaves]

    @cached_property
    def cell_leaves(self) -> NDArray[np.int64]:
        """First leaf of each cell, and the number of leaves."""
        return np.searchsorted(self._filled, self.whole.cell_leaves)

    @cached_property
    def _outline(self) -> tuple[Moments, SketchedKeys | None]:
        """Moments of the leaves, and sketches of their keys if there are any."""
        return summarize_leaves(
            self.keys,
            self.targets,
            self.leaves,
            self.copies,
            basis=self.basis,
            sketching=self.whole.sketch is not None,
            held=zarr_store.SHARD,
        )

    def cell_moments(self) -> Moments:
        """Moments of the cells that have keys."""
        return Moments.merge(self._outline[0], np.diff(self.leaf_patches), self.filled_cell_leaves)

    def leaf_groups(self) -> Groups:
        """Moments of the leaves, those of each cell beginning a block."""
        return Groups.of(self._outline[0], np.diff(self.leaf_patches), self.filled_cell_leaves)

    @cached_property
    def sketch(self) -> Sketch | None:
        """Sketches of the keys, of large ones."""
        keys = self._outline[1]
        if keys is None:
            return None
        return Sketch(keys.centre, keys.step, keys.off, Packed.of([keys.steps]), Packed.of([keys.rest]))

    @cached_property
    def neighbours(self) -> faiss.IndexIVF:
        """The FAISS index, filled anew."""
        index = inverted_lists.emptied(self.whole.neighbours)
        cell = np.repeat(np.arange(len(self.cells) - 1), np.diff(self.cells))
        for start in range(0, len(self.kept), zarr_store.SHARD):
            q = self.packed_keys.rows(start, min(start + zarr_store.SHARD, len(self.kept)))
            inverted_lists.add(index, q, self.quantization, start, cell[start : start + len(q)])
        return index

    @cached_property
    def mixture(self) -> Mixture | None:
        """The mixture, fitted anew to the images that are left."""
        if not self.manifest.gaussians:
            return None
        left = np.setdiff1d(np.arange(self.manifest.images), self.images_out)
        return fit_mixture(self.corpus(left, zarr_store.SHARD), self.manifest.seed)


def leave_out(index: Index, images: NDArray[np.integer]) -> HeldOutView:
    """View an index without the images of these numbers, at least one of which must be left."""
    image = index.ids(0, index.manifest.keys)[:, 0]
    kept_copies = np.flatnonzero(~np.isin(image, images))
    kept = np.flatnonzero(np.diff(np.searchsorted(kept_copies, index.copies)))
    leaves = np.count_nonzero(np.diff(np.searchsorted(kept, index.leaves)))
    manifest = replace(index.manifest, keys=len(kept_copies), distinct=len(kept), leaves=int(leaves))
    return HeldOutView(
        index.name, index.version, index.folder, manifest, index, np.asarray(images), kept, kept_copies
    )


def _left(
    kept: NDArray[np.int64], read: Callable[[int, int], NDArray[_T]], start: int, stop: int
) -> NDArray[_T]:
    """Rows start … stop − 1 of those that were kept."""
    if start == stop:
        return read(0, 0)
    first, last = int(kept[start]), int(kept[stop - 1])
    return read(first, last + 1)[kept[start:stop] - first]
