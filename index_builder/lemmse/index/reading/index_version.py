"""An index opened for reading."""

import json
import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.contract.errors import DataLoss
from lemmse.contract.results import IndexInfo
from lemmse.index.callbacks import Progress, silent
from lemmse.index.clustering.groups import Groups
from lemmse.index.clustering.mixture import Mixture
from lemmse.index.clustering.moments import Basis, Moments
from lemmse.index.clustering.sketches import Sketch
from lemmse.index.images.stack import Images
from lemmse.index.patches.corpus import Corpus
from lemmse.index.patches.strata import Strata
from lemmse.index.physics import InverseProblem
from lemmse.index.ranges import row_slices
from lemmse.index.reading.image_names import file_of, volume_of
from lemmse.index.reading.layout import require_layout
from lemmse.index.sources import intensities
from lemmse.index.storage import zarr_store
from lemmse.index.storage.folder import ARRAYS, DEPTHS, SOURCES, about_index, current_version, folder_of
from lemmse.index.storage.manifest import REMEDY, Manifest
from lemmse.index.storage.packing import Packed
from lemmse.index.storage.pinned import PinnedFiles
from lemmse.index.storage.quantization import Quantization
from lemmse.index.storage.shards import Shards, name_of

__all__ = ["Index", "open_index", "open_unverified"]


@dataclass(frozen=True)
class Index:
    """A version of an index; its files are opened once, and its arrays are read from them on demand.

    What happens to its folder afterwards changes no answer; see `PinnedFiles`.

    Attributes named X_Y, such as `cell_keys`, are offsets: the first Y of each X, followed by the number of
    Ys.
    """

    name: str
    """Name of the index, which is the name of its folder."""
    version: str
    """Version of the index."""
    folder: Path
    """Folder of the version."""
    manifest: Manifest
    """Manifest of the version."""

    def __reduce__(self) -> tuple[type["Index"], tuple[Any, ...]]:
        """Pickle the index as its folder; the other process opens the files again."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def files(self) -> PinnedFiles:
        """The files of the version."""
        files = PinnedFiles(self.folder, self.manifest.files)
        require_layout(files, self.manifest)
        return files

    def require_unchanged(self) -> None:
        """Raise DataLoss if a file of the version was cut short or overwritten after it was opened.

        Raises
        ------
        DataLoss
            A file was changed.
        """
        with about_index(self.name, self.version):
            self.files.require_unchanged()

    @property
    def info(self) -> IndexInfo:
        """The description of the index that clients receive."""
        height, width = self.image_size
        own = {"name": self.name, "version": self.version, "image_height": height, "image_width": width}
        own["noise"] = "white" if self.manifest.noise is None else "correlated"
        names = (field.name for field in fields(IndexInfo) if field.name not in own)
        values: dict[str, Any] = own | {name: getattr(self.manifest, name) for name in names}
        return IndexInfo(**values)

    @cached_property
    def problem(self) -> InverseProblem:
        """The inverse problem of the index."""
        stored = zarr_store.read_group(self._arrays, "physics")
        manifest = self.manifest
        return InverseProblem.restore(manifest.physics, manifest.pre_inverse, stored, manifest.noise)

    @cached_property
    def strata(self) -> Strata:
        """The strata of the keys."""
        arrays = zarr_store.read_group(self._arrays, "strata")
        return Strata(arrays["scale"], arrays.get("whitener"), arrays.get("constants"))

    @cached_property
    def stratum_cells(self) -> NDArray[np.int64]:
        """First cell of each stratum, followed by the number of cells, (S + 1,)."""
        return zarr_store.read_all(self._arrays, "strata/cells")

    @cached_property
    def cell_keys(self) -> NDArray[np.int64]:
        """First key of each cell, followed by the number of keys, (cells + 1,)."""
        return self._shards.offsets("cells/keys")

    @cached_property
    def cell_leaves(self) -> NDArray[np.int64]:
        """First leaf of each cell, followed by the number of leaves, (cells + 1,)."""
        return self._shards.offsets("cells/leaves")

    @cached_property
    def leaf_keys(self) -> NDArray[np.int64]:
        """First key of each leaf, followed by the number of keys, (leaves + 1,)."""
        return self._shards.offsets("leaves/keys")

    @cached_property
    def leaf_patches(self) -> NDArray[np.int64]:
        """First training patch of each leaf, followed by the number of patches, (leaves + 1,)."""
        return self._shards.offsets("leaves/patches")

    @cached_property
    def basis(self) -> Basis:
        """The PCA basis of the keys, in which summary statistics are stored."""
        return Basis(**zarr_store.read_group(self._arrays, "basis"))

    @cached_property
    def nonempty_cells(self) -> NDArray[np.int64]:
        """Numbers of the cells that have keys; k-means may leave cells empty."""
        return np.flatnonzero(np.diff(self.cell_leaves))

    @cached_property
    def nonempty_cell_leaves(self) -> NDArray[np.int64]:
        """First leaf of each nonempty cell, followed by the number of leaves."""
        return self.cell_leaves[[*self.nonempty_cells, len(self.cell_leaves) - 1]]

    def cell_moments(self) -> Moments:
        """Return the summary statistics of the nonempty cells."""
        rows = self._shards.read_all("cells/moments")
        return Moments.of_rows(rows, self.patch_length, self.manifest.channels)

    def leaf_groups(self) -> Groups:
        """Return the summary statistics of the leaves; the leaves of each cell begin a block."""
        names = {name: f"leaves/{name}" for name in Groups.stored_names()}
        arrays = {name: self._shards.plain(path) for name, path in names.items() if self._shards.has(path)}
        return Groups.from_stored(self.nonempty_cell_leaves, arrays)

    @cached_property
    def sketch(self) -> Sketch:
        """Sketches of the keys of the nonempty cells."""
        shards = self._shards
        return Sketch(
            centre=shards.plain("sketches/centre"),
            step=shards.plain("sketches/step"),
            off=shards.plain("sketches/off"),
            near=shards.packed("sketches/near"),
            more=shards.packed("sketches/more"),
        )

    @cached_property
    def mixture(self) -> Mixture | None:
        """The mixture of Gaussians; None if there is none."""
        if not self.manifest.gaussians:
            return None
        return Mixture(**zarr_store.read_group(self._arrays, "mixture"))

    @cached_property
    def remaining(self) -> NDArray[np.int64]:
        """Numbers of the training images whose patches count: all, except in views without some of them."""
        return np.arange(self.manifest.images)

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the training images that count, in pixels; (0, 0) if their sizes differ."""
        sizes = self.sizes[self.remaining]
        height, width = sizes[0].tolist() if (sizes == sizes[0]).all() else (0, 0)
        return height, width

    def image(self, k: int) -> NDArray[Any]:
        """Return training image k in the dtype of the source, (H, W, C)."""
        start, stop = self._first_pixels[k : k + 2].tolist()
        return zarr_store.read(self._arrays, "images/pixels", start, stop).reshape(*self.sizes[k], -1)

    def images(self) -> Images[Any]:
        """Return all training images in the dtype of the source."""
        return Images(zarr_store.read_all(self._arrays, "images/pixels"), self.sizes)

    @cached_property
    def depths(self) -> NDArray[np.int64]:
        """Number of planes of each volume, of which the images are the planes; 1 if they are not."""
        if self.manifest.patch_depth == 1:
            return np.ones(self.manifest.images, np.int64)
        return zarr_store.read_all(self._arrays, DEPTHS)

    @cached_property
    def volumes(self) -> NDArray[np.int64]:
        """Number of the volume of which each image is a plane, (K,)."""
        return np.repeat(np.arange(len(self.depths)), self.depths)

    def corpus(self, numbers: NDArray[np.integer], block: int) -> Corpus:
        """Return the training patches of the images with these numbers, in blocks as for `Corpus.of`."""
        stack, manifest = self.images(), self.manifest
        return Corpus.of(
            self.problem,
            lambda numbers: Images.stack(intensities(stack[k]) for k in numbers),
            stack.sizes,
            self.depths,
            manifest.channels,
            numbers=numbers,
            patch_size=manifest.patch_size,
            patch_depth=manifest.patch_depth,
            boundary=manifest.boundary,
            equivariance=manifest.equivariance,
            augment=manifest.augment,
            stride=manifest.stride,
            block=block,
        )

    @cached_property
    def _arrays(self) -> zarr.Group:
        return zarr_store.open_pinned(self.files, ARRAYS)

    @cached_property
    def _shards(self) -> Shards:
        return Shards(self.files, [name_of(number) for number in range(self.manifest.shards)])

    def shard_offsets(self) -> tuple[NDArray[np.int64], ...]:
        """Return the first key, patch, cell and leaf of each shard and their numbers, (shards + 1,) each."""
        return self._shards.first()

    @property
    def patch_length(self) -> int:
        """Length of a key, P = p_z·p²·C."""
        return self.manifest.patch_pixels * self.manifest.channels

    @cached_property
    def quantization(self) -> Quantization:
        """The quantization of the keys."""
        manifest = self.manifest
        return Quantization(np.dtype(manifest.key_dtype), manifest.key_step, manifest.key_low)

    @cached_property
    def packed_keys(self) -> Packed:
        """Distinct keys in leaf order, quantized."""
        return self._shards.packed("keys")

    @cached_property
    def packed_moments(self) -> Packed:
        """n, Σ t and Σ t² of the patches of each distinct key, float32."""
        return self._shards.packed("moments")

    def keys(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return distinct keys start … stop − 1 in leaf order, (stop − start, P)."""
        return self.quantization.decode(self.packed_keys.rows(start, stop))

    @cached_property
    def multiplicity(self) -> NDArray[np.integer]:
        """Number of training patches of each distinct key, (U,)."""
        return self._shards.read("counts", 0, self.manifest.distinct)

    @cached_property
    def key_patches(self) -> NDArray[np.int64]:
        """First training patch of each distinct key, followed by the number of patches, (U + 1,).

        Patches are numbered in the order of their keys.

        Raises
        ------
        DataLoss
            The multiplicities do not add up.
        """
        patches = np.concatenate([[0], np.cumsum(self.multiplicity, dtype=np.int64)])
        if self.multiplicity.min() < 1 or patches[-1] != self.manifest.keys:
            raise DataLoss(f"the counts of the keys do not add up; {REMEDY}")
        return patches

    def patch_ranges(self, keys: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the range of the training patches of keys: the first, and the one after the last, (K, 2).

        Raises
        ------
        DataLoss
            The multiplicities of the keys of a leaf do not add up.
        """
        leaves, leaf = np.unique(np.searchsorted(self.leaf_keys, keys, side="right") - 1, return_inverse=True)
        sizes = self.leaf_keys[leaves + 1] - self.leaf_keys[leaves]
        begins = np.concatenate([[0], sizes.cumsum()])[:-1]  # of each leaf, in the counts of all
        rows = np.arange(sizes.sum()) + np.repeat(self.leaf_keys[leaves] - begins, sizes)
        counts = self._shards.take("counts", rows).astype(np.int64)
        patches = self.leaf_patches[leaves + 1] - self.leaf_patches[leaves]
        if counts.min(initial=1) < 1 or (np.add.reduceat(counts, begins) != patches).any():
            raise DataLoss(f"the counts of the keys do not add up; {REMEDY}")
        before = np.concatenate([[0], counts.cumsum()])
        at = begins[leaf] + keys - self.leaf_keys[leaves[leaf]]
        first = self.leaf_patches[leaves[leaf]] + before[at] - before[begins[leaf]]
        return np.stack([first, first + counts[at]], axis=1)

    def targets(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the targets t of patches start … stop − 1, (stop − start, C)."""
        return self._shards.read("targets", start, stop)

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """Return training image, row and column of patches start … stop − 1, (stop − start, 3)."""
        return self._shards.read("ids", start, stop)

    def symmetries(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the symmetries of the copies that have patches start … stop − 1, (stop − start,)."""
        if self.manifest.augment == "none":
            return np.zeros(stop - start, np.uint8)
        return self._shards.read("symmetries", start, stop)

    @cached_property
    def patches_of_images(self) -> NDArray[np.int64]:
        """Number of training patches of each image, (K,).

        Raises
        ------
        DataLoss
            A patch is of an image that does not exist.
        """
        counts = np.zeros(self.manifest.images, np.int64)
        for some in row_slices(self.manifest.keys, zarr_store.SHARD):
            image = self.ids(some.start, some.stop)[:, 0]
            if image.min() < 0 or image.max() >= len(counts):
                raise DataLoss(f"a patch of image {image.max()} does not exist; {REMEDY}")
            counts += np.bincount(image, minlength=len(counts))
        return counts

    def ids_of(self, patches: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return training image, row and column of some patches, (N, 3)."""
        return self._shards.take("ids", patches)

    def symmetries_of(self, patches: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the symmetries of the copies that have some patches, (N,)."""
        if self.manifest.augment == "none":
            return np.zeros(len(patches), np.uint8)
        return self._shards.take("symmetries", patches)

    def pixel_numbers(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the numbers, among those of all training images, of pixels, (N,).

        Parameters
        ----------
        ids : int, (N, 3)
            Training image, row and column of each.

        Raises
        ------
        DataLoss
            There is no such pixel.
        """
        image, *position = ids.T.astype(np.int64)
        known = (image >= 0) & (image < len(self.sizes))
        sizes = np.where(known[:, None], self.sizes[np.where(known, image, 0)], 0)  # (N, 2)
        row, column = position
        exists = (row >= 0) & (row < sizes[:, 0]) & (column >= 0) & (column < sizes[:, 1])
        if not exists.all():
            k, i, j = ids[~exists][0].tolist()
            raise DataLoss(f"a patch of image {k}, row {i}, column {j} does not exist; {REMEDY}")
        return np.asarray(self._first_pixels[image] + row * sizes[:, 1] + column)

    def pixels(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return pixels of the training images, in intensities, (N, C)."""
        return intensities(zarr_store.take(self._arrays, "images/pixels", numbers))

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Heights and widths of the training images, (K, 2)."""
        return zarr_store.read_all(self._arrays, "images/sizes")

    @cached_property
    def _first_pixels(self) -> NDArray[np.int64]:
        """First pixel of each training image, followed by the number of pixels, (K + 1,)."""
        return np.concatenate([[0], self.sizes.prod(axis=1).cumsum()])

    @cached_property
    def labels(self) -> list[str]:
        """Origin of each training image.

        Raises
        ------
        DataLoss
            There is not one for each image.
        """
        try:
            labels: list[str] = json.loads(self.files[SOURCES].tobytes())
        except (ValueError, RecursionError) as error:
            raise DataLoss(f"{SOURCES} is damaged; {REMEDY}") from error
        expected = isinstance(labels, list) and len(labels) == self.manifest.images
        if not expected or not all(isinstance(label, str) for label in labels):
            raise DataLoss(f"{SOURCES} does not name {self.manifest.images} images; {REMEDY}")
        return labels

    @cached_property
    def numbers_of(self) -> dict[str, list[int]]:
        """Numbers of the training images of each source, by its name, and by that of its file."""
        numbers: dict[str, list[int]] = {}
        for number, label in enumerate(self.labels):
            for name in {label, volume_of(label), file_of(label)}:
                numbers.setdefault(name, []).append(number)
        return numbers

    @cached_property
    def neighbours(self) -> faiss.IndexIVF:
        """The FAISS index over all cells; a key is identified by its cell and its position in the cell."""
        centroids = zarr_store.read_all(self._arrays, "cells/centroids")
        return self._shards.neighbours(centroids, self.quantization)


def open_index(
    path: str | os.PathLike[str], progress: Progress = silent, *, version: str | None = None
) -> Index:
    """Open a version of an index after verifying the checksum of every file.

    Parameters
    ----------
    path : str or path
        The index folder.
    progress : callable
        Called as `progress(stage, done, total)`, in bytes.
    version : str, optional
        The version; by default the current one.

    Raises
    ------
    NotFound
        There is no index at `path`, or no such version.
    DataLoss
        A file is missing, truncated or altered.
    UnsupportedFormat
        The index has another format.
    """
    return _open(path, progress, version)


def open_unverified(path: str | os.PathLike[str]) -> Index:
    """Open the current version of an index after checking that every file exists and has its length.

    Raises
    ------
    NotFound, DataLoss, UnsupportedFormat
        As for `open_index`, except that altered files of the same length are not detected.
    """
    return _open(path, None)


def _open(path: str | os.PathLike[str], verifying: Progress | None, version: str | None = None) -> Index:
    root = Path(os.path.abspath(path))
    if version is None:
        version, folder = current_version(root)
    else:
        folder = folder_of(root, version)
    with about_index(root.name, version):
        index = Index(root.name, version, folder, Manifest.read(folder))
        # Before its content is read: what was altered by accident is told as such.
        files = PinnedFiles(folder, index.manifest.files)
        if verifying is not None:
            files.verify(verifying)
        require_layout(files, index.manifest)
        vars(index)["files"] = files
    return index
