"""A view of an index without some of its training images: for validation, and for requests that exclude them.

The keys that remain are copied, packed as in the index. The summary statistics are computed anew for the
leaves that lose patches only; those of a cell are corrected by what it loses, if that is at most half of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from lemmse.index.clustering.groups import Groups
from lemmse.index.clustering.mixture import Mixture, fit_mixture
from lemmse.index.clustering.moments import Moments, key_moments
from lemmse.index.clustering.sketches import Sketch
from lemmse.index.ranges import CHUNK, joined_ranges, row_slices, split_ranges
from lemmse.index.reading.index_version import Index
from lemmse.index.storage import inverted_lists, zarr_store
from lemmse.index.storage.calibration_record import Calibration
from lemmse.index.storage.packing import Packed
from lemmse.index.storage.pinned import PinnedFiles

__all__ = ["HeldOutView", "leave_out"]

_T = TypeVar("_T", bound=np.generic)
_MOST_TAKEN = 0.5
"""Largest share of the patches of a cell that is subtracted from its statistics; rounding errors double."""
_FEW = 0.02
"""Largest share of held-out images that leaves the mixture as it is, fitted to hundreds of patches each."""


def _nothing() -> None:
    pass


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
    refits: bool
    """Whether the mixture of Gaussians is fitted to the remaining images; it is that of the whole index
    otherwise."""

    def with_calibration(self, calibration: Calibration) -> "HeldOutView":
        """Return the view with a calibration of mode hybrid; what was computed for the view is kept."""
        view = object.__new__(HeldOutView)
        vars(view).update(vars(self), manifest=replace(self.manifest, calibration=calibration))
        return view

    @property
    def files(self) -> PinnedFiles:
        """The files of the whole index."""
        return self.whole.files

    def load(self, poll: Callable[[], object]) -> None:
        """Copy the remaining keys and correct the statistics now, instead of at their first use.

        Parameters
        ----------
        poll : callable
            Called after some tens of milliseconds of work each; it may raise.
        """
        own = vars(self)
        own["_poll"] = poll
        try:
            # Not by their properties: Python 3.11 holds one lock for all views while one of them is computed,
            # for which another thread would wait while this one waits in `poll`.
            own["packed_keys"] = self._pack_keys()
            own["packed_moments"] = self._pack_moments()
            own["sketch"] = self._copy_sketch()
            own["_groups"] = self._correct_leaves()
            own["_cell_moments"] = self._correct_cells()
        finally:
            own["_poll"] = _nothing

    @cached_property
    def _poll(self) -> Callable[[], object]:
        return _nothing

    @cached_property
    def remaining(self) -> NDArray[np.int64]:
        """Numbers of the training images that are not held out."""
        return np.setdiff1d(np.arange(self.manifest.images), self.images_out)

    @property
    def stratum_cells(self) -> NDArray[np.int64]:
        """First cell of each stratum, followed by the number of cells, (S + 1,)."""
        return self.whole.stratum_cells

    @cached_property
    def packed_keys(self) -> Packed:
        """Distinct keys in leaf order, quantized."""
        return self._pack_keys()

    def _pack_keys(self) -> Packed:
        return self._kept_packed(self.whole.packed_keys)

    def _kept_packed(
        self,
        packed: Packed,
        changed: Callable[[slice, NDArray[Any]], NDArray[Any]] = lambda some, rows: rows,
    ) -> Packed:
        """Return the rows of the remaining keys, packed, as `changed` returns them."""

        def block(some: slice) -> NDArray[Any]:
            self._poll()
            return changed(some, _kept_rows(self.kept, packed.rows, some.start, some.stop))

        return Packed.of(block(some) for some in row_slices(len(self.kept)))

    @cached_property
    def packed_moments(self) -> Packed:
        """n, Σ t and Σ t² of the patches of each distinct key, float32."""
        return self._pack_moments()

    def _pack_moments(self) -> Packed:
        fewer = self.multiplicity < self.whole.multiplicity[self.kept]

        def changed(some: slice, rows: NDArray[Any]) -> NDArray[Any]:
            if fewer[some].any():
                patches = self.key_patches[some.start : some.stop + 1]
                targets = self.targets(int(patches[0]), int(patches[-1]))
                rows = np.where(fewer[some, None], key_moments(targets, patches - patches[0]), rows)
            return rows

        return self._kept_packed(self.whole.packed_moments, changed)

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
    def _groups(self) -> Groups:
        """Summary statistics of the leaves."""
        return self._correct_leaves()

    def _correct_leaves(self) -> Groups:
        whole, n = self.whole.leaf_groups(), np.diff(self.leaf_patches)
        fewer = np.flatnonzero(n < np.diff(self.whole.leaf_patches)[self._nonempty])
        others = None
        if len(fewer):
            moments = Moments.join(self._moments_of(self.leaf_keys, fewer))
            others = Groups.of(moments, n[fewer], np.array([0, len(fewer)]))
        elif len(n) == self.whole.manifest.leaves:
            return whole
        return whole.replaced(self._nonempty[fewer], others, self._nonempty, self.nonempty_cell_leaves)

    @cached_property
    def _cell_moments(self) -> Moments:
        """Summary statistics of the nonempty cells."""
        return self._correct_cells()

    def _correct_cells(self) -> Moments:
        whole, edges = self.whole, self.nonempty_cell_leaves
        of_whole = np.flatnonzero(np.isin(whole.nonempty_cells, self.nonempty_cells))
        before = np.diff(whole.leaf_patches[whole.nonempty_cell_leaves])[of_whole]
        n = np.diff(self.leaf_patches[edges])
        moments = whole.cell_moments().take(of_whole)
        much = n < (1 - _MOST_TAKEN) * before
        for cells in self._consecutive(np.flatnonzero((n < before) & ~much), np.cumsum([0, *before])):
            moments.put(cells, self._without_gone(moments.take(cells), of_whole[cells], before[cells]))
        if much.any():
            anew = np.flatnonzero(much)
            moments.put(anew, Moments.join(self._moments_of(self.leaf_keys[edges], anew)))
        groups, first = self._groups, edges[:-1]
        return replace(
            moments,
            low=np.minimum.reduceat(groups.low, first),
            high=np.maximum.reduceat(groups.high, first),
            target_low=np.minimum.reduceat(groups.target_low, first),
            target_high=np.maximum.reduceat(groups.target_high, first),
        )

    def _without_gone(self, moments: Moments, cells: NDArray[np.int64], n: NDArray[np.int64]) -> Moments:
        """Return the statistics of nonempty cells of the whole index, of n patches, without what is gone."""
        whole = self.whole
        first, end = (whole.leaf_patches[whole.nonempty_cell_leaves[cells + more]] for more in (0, 1))
        begins, ends = (np.searchsorted(self._gone_patches, edge) for edge in (first, end))
        gone = self._gone_patches[joined_ranges(begins, ends - begins)]
        keys, begin = np.unique(np.searchsorted(whole.key_patches, gone, side="right") - 1, return_index=True)
        targets = whole.targets(int(gone[0]), int(gone[-1]) + 1)[gone - gone[0]]
        v = self.basis.rotate(self.quantization.decode(whole.packed_keys.take(keys)))
        key_patches = np.append(begin, len(gone))
        group_keys = np.searchsorted(begin, _edges(ends - begins))
        return moments.without(n, v, targets, group_keys, key_patches)

    @cached_property
    def _gone_patches(self) -> NDArray[np.int64]:
        """Numbers of the training patches that are left out, in the whole index, ascending."""
        return np.setdiff1d(np.arange(self.whole.manifest.keys), self.kept_patches, assume_unique=True)

    def _moments_of(self, group_keys: NDArray[np.int64], chosen: NDArray[np.int64]) -> list[Moments]:
        """Return the summary statistics of the chosen ones of groups of keys, in blocks."""
        blocks = []
        for own in self._consecutive(chosen, group_keys):
            sizes = np.diff(group_keys)[own]
            keys = joined_ranges(group_keys[own], sizes)
            start, counts = self.key_patches[keys], self.multiplicity[keys]
            first, end = int(start[0]), int(start[-1] + counts[-1])
            targets = self.targets(first, end)[joined_ranges(start - first, counts)]
            v = self.basis.rotate(self.quantization.decode(self.packed_keys.take(keys)))
            blocks.append(Moments.of(v, targets, _edges(sizes), _edges(counts)))
        return blocks

    def _consecutive(
        self, chosen: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> Iterator[NDArray[np.int64]]:
        """Yield the chosen groups, in blocks out of a range of not too many rows, and poll in between."""
        for first, end in split_ranges(offsets, CHUNK):
            own = chosen[np.searchsorted(chosen, first) : np.searchsorted(chosen, end)]
            if len(own):
                self._poll()
                yield own

    def cell_moments(self) -> Moments:
        """Return the summary statistics of the nonempty cells."""
        return self._cell_moments

    def leaf_groups(self) -> Groups:
        """Return the summary statistics of the leaves; the leaves of each cell begin a block."""
        return self._groups

    @cached_property
    def sketch(self) -> Sketch:
        """Sketches of the remaining keys; the boxes of their cells are those of the whole index."""
        return self._copy_sketch()

    def _copy_sketch(self) -> Sketch:
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
        """The mixture of Gaussians; with `refits` that of the remaining images, unless few are left out."""
        if not self.refits or len(self.images_out) <= _FEW * self.manifest.images:
            return self.whole.mixture
        if not self.manifest.gaussians:
            return None
        return fit_mixture(self.corpus(self.remaining, zarr_store.SHARD), self.manifest.seed)


def leave_out(index: Index, images: NDArray[np.integer], *, refits: bool = True) -> HeldOutView:
    """Return a view of an index without the images with these numbers.

    Parameters
    ----------
    index : Index
        The index.
    images : int
        Numbers of the images to leave out; without their patches, the index must have some.
    refits : bool
        Whether the mixture of Gaussians is fitted to the remaining images when it is used.
    """
    image = index.ids(0, index.manifest.keys)[:, 0]
    kept_patches = np.flatnonzero(~np.isin(image, images))
    kept = np.flatnonzero(np.diff(np.searchsorted(kept_patches, index.key_patches)))
    leaves = np.count_nonzero(np.diff(np.searchsorted(kept, index.leaf_keys)))
    manifest = replace(index.manifest, keys=len(kept_patches), distinct=len(kept), leaves=int(leaves))
    return HeldOutView(
        index.name,
        index.version,
        index.folder,
        manifest,
        index,
        np.asarray(images),
        kept,
        kept_patches,
        refits,
    )


def _kept_rows(
    kept: NDArray[np.int64], read: Callable[[int, int], NDArray[_T]], start: int, stop: int
) -> NDArray[_T]:
    """Return rows start … stop − 1 of the kept rows; `kept` has their numbers in `read`, ascending."""
    if start == stop:
        return read(0, 0)
    first, last = int(kept[start]), int(kept[stop - 1])
    return read(first, last + 1)[kept[start:stop] - first]


def _edges(sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return offsets of groups with these sizes."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
