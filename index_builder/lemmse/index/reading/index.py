"""Open an index for reading."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index.clustering.groups import Groups
from lemmse.index.clustering.mixture import Mixture
from lemmse.index.clustering.moments import Basis, Moments
from lemmse.index.clustering.sketches import Sketch, pays
from lemmse.index.images.stack import Images
from lemmse.index.patches.corpus import Corpus
from lemmse.index.patches.strata import Strata
from lemmse.index.physics import InverseProblem
from lemmse.index.sources import intensities
from lemmse.index.storage import zarr_store
from lemmse.index.storage.folder import ARRAYS, SOURCES, about_index, current_version
from lemmse.index.storage.manifest import Manifest
from lemmse.index.storage.packing import Packed
from lemmse.index.storage.quantization import Quantization
from lemmse.index.storage.shards import Shards, folder_of

__all__ = ["Index", "open_index", "open_unverified"]


@dataclass(frozen=True)
class Index:
    """An index version; arrays are read when they are asked for."""

    name: str
    """Name of the index: its folder's."""
    version: str
    """Version under that name."""
    folder: Path
    """Where the version lies."""
    manifest: Manifest
    """What it holds."""

    def __reduce__(self) -> tuple[type["Index"], tuple[Any, ...]]:
        """Have another process read it anew."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def problem(self) -> InverseProblem:
        """The inverse problem that it was built for."""
        stored = zarr_store.read_group(self._arrays, "physics")
        return InverseProblem.restore(self.manifest.physics, self.manifest.pre_inverse, stored)

    @cached_property
    def strata(self) -> Strata:
        """The strata of its keys."""
        arrays = zarr_store.read_group(self._arrays, "strata")
        return Strata(arrays["scale"], arrays.get("whitener"), arrays.get("constants"))

    @cached_property
    def strata_cells(self) -> NDArray[np.int64]:
        """First cell of each stratum, and the number of cells, (S + 1,)."""
        return zarr_store.read_all(self._arrays, "strata/cells")

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """First key of each cell, and the number of keys, (cells + 1,)."""
        return self._shards.edges("cells/keys")

    @cached_property
    def cell_leaves(self) -> NDArray[np.int64]:
        """First leaf of each cell, and the number of leaves, (cells + 1,)."""
        return self._shards.edges("cells/leaves")

    @cached_property
    def leaves(self) -> NDArray[np.int64]:
        """First key of each leaf, and the number of keys, (leaves + 1,)."""
        return self._shards.edges("leaves/keys")

    @cached_property
    def leaf_patches(self) -> NDArray[np.int64]:
        """First training patch that has a key of each leaf, and the number of patches, (leaves + 1,)."""
        return self._shards.edges("leaves/patches")

    @cached_property
    def basis(self) -> Basis:
        """The principal axes that the moments of the leaves are along."""
        return Basis(**zarr_store.read_group(self._arrays, "basis"))

    @cached_property
    def filled_cells(self) -> NDArray[np.int64]:
        """Numbers of the cells that have keys: k-means may leave a cell empty."""
        return np.flatnonzero(np.diff(self.cell_leaves))

    @cached_property
    def filled_cell_leaves(self) -> NDArray[np.int64]:
        """First leaf of each cell that has keys, and the number of leaves."""
        return self.cell_leaves[[*self.filled_cells, len(self.cell_leaves) - 1]]

    def cell_moments(self) -> Moments:
        """Moments of the cells that have keys."""
        rows = self._shards.read_all("cells/moments")
        return Moments.of_rows(rows, self.patch_length, self.manifest.channels)

    def leaf_groups(self) -> Groups:
        """Moments of the leaves, those of each cell beginning a block."""
        names = {name: f"leaves/{name}" for name in Groups.stored()}
        arrays = {name: self._shards.plain(path) for name, path in names.items() if self._shards.has(path)}
        return Groups.laid_out(self.filled_cell_leaves, arrays)

    @cached_property
    def sketch(self) -> Sketch | None:
        """Sketches of the keys, of large ones."""
        if not pays(self.patch_length, self.quantization.dtype.itemsize):
            return None
        shards = self._shards
        return Sketch(
            centre=shards.plain("sketches/centre"),
            step=shards.plain("sketches/step"),
            off=shards.plain("sketches/off"),
            steps=shards.packed("sketches/steps"),
            rest=shards.packed("sketches/rest"),
        )

    @cached_property
    def mixture(self) -> Mixture | None:
        """The mixture of Gaussians that was fitted to the patches, where there is one."""
        if not self.manifest.gaussians:
            return None
        return Mixture(**zarr_store.read_group(self._arrays, "mixture"))

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the training images; zeros where their sizes differ."""
        height, width = self._sizes[0].tolist() if (self._sizes == self._sizes[0]).all() else (0, 0)
        return height, width

    def image(self, k: int) -> NDArray[Any]:
        """A training image, in the source's dtype, (H, W, C)."""
        start, stop = self._first_pixels[k : k + 2].tolist()
        return zarr_store.read(self._arrays, "images/pixels", start, stop).reshape(*self._sizes[k], -1)

    def images(self) -> Images[Any]:
        """The training images, in the source's dtype."""
        return Images(zarr_store.read_all(self._arrays, "images/pixels"), self._sizes)

    def corpus(self, numbers: NDArray[np.integer], block: int) -> Corpus:
        """The training patches of images of these numbers, in blocks of so many patches, or of one image."""
        stack, manifest = self.images(), self.manifest
        return Corpus.of(
            self.problem,
            lambda first, end: Images.stack(intensities(stack[k]) for k in numbers[first:end]),
            stack.sizes[numbers],
            manifest.channels,
            patch_size=manifest.patch_size,
            boundary=manifest.boundary,
            equivariance=manifest.equivariance,
            augment=manifest.augment,
            block=block,
        )

    @cached_property
    def _arrays(self) -> zarr.Group:
        return zarr_store.open_arrays(self.folder / ARRAYS)

    @cached_property
    def _shards(self) -> Shards:
        return Shards([folder_of(self.folder, number) for number in range(self.manifest.shards)])

    def shard_edges(self) -> tuple[NDArray[np.int64], ...]:
        """First distinct key, patch, cell and leaf of each shard, and their numbers, (shards + 1,) each."""
        return self._shards.first()

    @property
    def patch_length(self) -> int:
        """P = p²·C."""
        return self.manifest.patch_size**2 * self.manifest.channels

    @cached_property
    def quantization(self) -> Quantization:
        """How keys are stored."""
        manifest = self.manifest
        return Quantization(np.dtype(manifest.key_dtype), manifest.key_step, manifest.key_low)

    @cached_property
    def packed_keys(self) -> Packed:
        """Distinct keys in leaf order, as they are stored."""
        return self._shards.packed("keys")

    @cached_property
    def packed_moments(self) -> Packed:
        """n, Σ t and Σ t² of the patches that have each distinct key, float32."""
        return self._shards.packed("moments")

    def keys(self, start: int, stop: int) -> NDArray[np.float32]:
        """Distinct keys v in leaf order, float32, shape (stop − start, P)."""
        return self.quantization.decode(self.packed_keys.rows(start, stop))

    @cached_property
    def counts(self) -> NDArray[np.integer]:
        """How many training patches have each key, (U,)."""
        return self._shards.read("counts", 0, self.manifest.distinct)

    @cached_property
    def copies(self) -> NDArray[np.int64]:
        """The first training patch that has each key, and the number of patches, (U + 1,).

        Patches are numbered in the order of their keys.
        """
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def patches_of(self, key: int) -> tuple[int, int]:
        """First of the training patches that have a key, and the first after them."""
        leaf = int(np.searchsorted(self.leaves, key, side="right")) - 1
        counts = self._shards.read("counts", int(self.leaves[leaf]), key + 1)
        stop = int(self.leaf_patches[leaf] + counts.sum(dtype=np.int64))
        return stop - int(counts[-1]), stop

    def targets(self, start: int, stop: int) -> NDArray[np.float32]:
        """Targets t of training patches in the order of their keys, float32, shape (stop − start, C)."""
        return self._shards.read("targets", start, stop)

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """Training image, row and column of patches in the order of their keys, shape (stop − start, 3)."""
        return self._shards.read("ids", start, stop)

    def symmetries(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Which copy of the image these were cut from, see `symmetries.py`, shape (stop − start,)."""
        if self.manifest.augment == "none":
            return np.zeros(stop - start, np.uint8)
        return self._shards.read("symmetries", start, stop)

    def pixel(self, image: int, row: int, column: int) -> NDArray[np.float32]:
        """A pixel of a training image, intensities, shape (C,)."""
        n = int(self._first_pixels[image] + row * self._sizes[image, 1] + column)
        return intensities(zarr_store.read(self._arrays, "images/pixels", n, n + 1)[0])

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Heights and widths of the training images, (K, 2)."""
        return zarr_store.read_all(self._arrays, "images/sizes")

    @cached_property
    def _first_pixels(self) -> NDArray[np.int64]:
        """First pixel of each training image, and the number of pixels, (K + 1,)."""
        return np.concatenate([[0], self._sizes.prod(axis=1).cumsum()])

    @cached_property
    def labels(self) -> list[str]:
        """Where each training image came from."""
        labels: list[str] = json.loads((self.folder / SOURCES).read_text())
        return labels

    @cached_property
    def neighbours(self) -> faiss.IndexIVF:
        """The FAISS index over all cells; a key is named by its cell and its place there."""
        return self._shards.neighbours()


def open_index(path: str | os.PathLike[str]) -> Index:
    """Open the current version of an index, after comparing every file with its checksum.

    Raises
    ------
    NotFound
        There is no index at `path`.
    DataLoss
        A file is missing, cut short or altered.
    UnsupportedFormat
        Another version of lemmse wrote it.
    """
    return _open(path, Manifest.verify)


def open_unverified(path: str | os.PathLike[str]) -> Index:
    """Open the current version of an index, after seeing that every file is there, with its length.

    Raises
    ------
    NotFound, DataLoss, UnsupportedFormat
        As for `open_index`; but what was altered and kept its length is not noticed.
    """
    return _open(path, Manifest.require_files)


def _open(path: str | os.PathLike[str], check: Callable[[Manifest, Path], None]) -> Index:
    root = Path(os.path.abspath(path))
    version, folder = current_version(root)
    with about_index(root.name, version):
        manifest = Manifest.read(folder)
        check(manifest, folder)
    return Index(root.name, version, folder, manifest)
