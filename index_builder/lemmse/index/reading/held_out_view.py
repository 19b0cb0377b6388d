"""A view of an index without some of its training images, which can then be used for validation."""

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
from lemmse.index.clustering.sketches import Sketch
from lemmse.index.clustering.summaries import summarize_leaves
from lemmse.index.reading.index_version import Index
from lemmse.index.storage import inverted_lists, zarr_store
from lemmse.index.storage.packing import Packed
from lemmse.index.storage.pinned import PinnedFiles

__all__ = ["HeldOutView", "leave_out"]

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class HeldOutView(Index):
    """An index without the keys of some images; its cells and leaves are those of the whole index."""

    whole: Index
    """The whole index."""
    images_out: NDArray[np.int64]
    """Numbers of the held-out images."""
    kept: NDArray[np.int64]
    """Numbers of the remaining keys in the whole index, ascending."""
    kept_patches: NDArray[np.int64]
    """Numbers of the remaining training patches in the whole index, ascending."""

    @property
    def files(self) -> PinnedFiles:
        """The files of the whole index."""
        return self.whole.files

    @cached_property
    def packed_keys(self) -> Packed:
        """Distinct keys in leaf order, quantized."""
        return self._kept_packed(self.whole.packed_keys)

    def _kept_packed(self, packed: Packed) -> Packed:
        """Return the rows of the remaining keys, packed."""
        count, rows = len(self.kept), packed.rows
        starts = range(0, count, zarr_store.SHARD)
        return Packed.of(
            _kept_rows(self.kept, rows, start, min(start + zarr_store.SHARD, count)) for start in starts
        )

    @cached_property
    def packed_moments(self) -> Packed:
        """n, Σ t and Σ t² of the patches of each distinct key, float32."""
        return Packed.of([key_moments(self.targets(0, len(self.kept_patches)), self.key_patches)])

    @cached_property
    def multiplicity(self) -> NDArray[np.integer]:
        """Number of training patches of each distinct key, (U,)."""
        return np.diff(np.searchsorted(self.kept_patches, self.whole.key_patches))[self.kept]

    def patch_ranges(self, keys: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the range of the training patches of keys: the first, and the one after the last, (K, 2)."""
        return np.stack([self.key_patches[keys], self.key_patches[keys + 1]], axis=1)

    def targets(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the targets t of patches start … stop − 1, (stop − start, C)."""
        return _kept_rows(self.kept_patches, self.whole.targets, start, stop)

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """Return training image, row and column of patches start … stop − 1, (stop − start, 3)."""
        return _kept_rows(self.kept_patches, self.whole.ids, start, stop)

    def symmetries(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the symmetries of the copies that have patches start … stop − 1, (stop − start,)."""
        return _kept_rows(self.kept_patches, self.whole.symmetries, start, stop)

    def ids_of(self, patches: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return training image, row and column of some patches, (N, 3)."""
        return self.whole.ids_of(self.kept_patches[patches])

    def symmetries_of(self, patches: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the symmetries of the copies that have some patches, (N,)."""
        return self.whole.symmetries_of(self.kept_patches[patches])

    @cached_property
    def cell_keys(self) -> NDArray[np.int64]:
        """First key of each cell, followed by the number of keys, (cells + 1,)."""
        return np.searchsorted(self.kept, self.whole.cell_keys)

    @cached_property
    def _nonempty(self) -> NDArray[np.int64]:
        """Numbers, in the whole index, of the leaves that have keys."""
        return np.flatnonzero(np.diff(np.searchsorted(self.kept, self.whole.leaf_keys)))

    @cached_property
    def leaf_keys(self) -> NDArray[np.int64]:
        """First key of each nonempty leaf, followed by the number of keys, (leaves + 1,)."""
        edges = np.searchsorted(self.kept, self.whole.leaf_keys)
        return edges[[*self._nonempty, len(edges) - 1]]

    @cached_property
    def leaf_patches(self) -> NDArray[np.int64]:
        """First training patch of each nonempty leaf, followed by the number of patches, (leaves + 1,)."""
        return self.key_patches[self.leaf_keys]

    @cached_property
    def cell_leaves(self) -> NDArray[np.int64]:
        """First leaf of each cell, followed by the number of leaves, (cells + 1,)."""
        return np.searchsorted(self._nonempty, self.whole.cell_leaves)

    @cached_property
    def _leaf_moments(self) -> Moments:
        """Summary statistics of the leaves."""
        return summarize_leaves(
            self.keys,
            self.targets,
            self.leaf_keys,
            self.key_patches,
            basis=self.basis,
            most=zarr_store.SHARD,
        )

    def cell_moments(self) -> Moments:
        """Return the summary statistics of the nonempty cells."""
        return Moments.merge(self._leaf_moments, np.diff(self.leaf_patches), self.nonempty_cell_leaves)

    def leaf_groups(self) -> Groups:
        """Return the summary statistics of the leaves; the leaves of each cell begin a block."""
        return Groups.of(self._leaf_moments, np.diff(self.leaf_patches), self.nonempty_cell_leaves)

    @cached_property
    def sketch(self) -> Sketch:
        """Sketches of the remaining keys; the boxes of their cells are those of the whole index."""
        whole, kept_cells = self.whole.sketch, np.isin(self.whole.nonempty_cells, self.nonempty_cells)
        return Sketch(
            centre=whole.centre[kept_cells],
            step=whole.step[kept_cells],
            off=whole.off[kept_cells],
            near=self._kept_packed(whole.near),
            more=self._kept_packed(whole.more),
        )

    @cached_property
    def neighbours(self) -> faiss.IndexIVF:
        """The FAISS index of the remaining keys."""
        index = inverted_lists.empty_copy(self.whole.neighbours)
        cell = np.repeat(np.arange(len(self.cell_keys) - 1), np.diff(self.cell_keys))
        for start in range(0, len(self.kept), zarr_store.SHARD):
            q = self.packed_keys.rows(start, min(start + zarr_store.SHARD, len(self.kept)))
            inverted_lists.add(index, q, self.quantization, start, cell[start : start + len(q)])
        return index

    @cached_property
    def mixture(self) -> Mixture | None:
        """The mixture of Gaussians, fitted to the remaining images."""
        if not self.manifest.gaussians:
            return None
        remaining = np.setdiff1d(np.arange(self.manifest.images), self.images_out)
        return fit_mixture(self.corpus(remaining, zarr_store.SHARD), self.manifest.seed)


def leave_out(index: Index, images: NDArray[np.integer]) -> HeldOutView:
    """Return a view of an index without the images with these numbers; at least one image must remain."""
    image = index.ids(0, index.manifest.keys)[:, 0]
    kept_patches = np.flatnonzero(~np.isin(image, images))
    kept = np.flatnonzero(np.diff(np.searchsorted(kept_patches, index.key_patches)))
    leaves = np.count_nonzero(np.diff(np.searchsorted(kept, index.leaf_keys)))
    manifest = replace(index.manifest, keys=len(kept_patches), distinct=len(kept), leaves=int(leaves))
    return HeldOutView(
        index.name, index.version, index.folder, manifest, index, np.asarray(images), kept, kept_patches
    )


def _kept_rows(
    kept: NDArray[np.int64], read: Callable[[int, int], NDArray[_T]], start: int, stop: int
) -> NDArray[_T]:
    """Return rows start … stop − 1 of the kept rows; `kept` has their numbers in `read`, ascending."""
    if start == stop:
        return read(0, 0)
    first, last = int(kept[start]), int(kept[stop - 1])
    return read(first, last + 1)[kept[start:stop] - first]
