"""Open an index for reading."""

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

from lemmse.index import store
from lemmse.index.errors import DataLoss, UnsupportedFormat
from lemmse.index.folder import ARRAYS, NEIGHBOURS, SOURCES, current_version
from lemmse.index.images import Images
from lemmse.index.manifest import Manifest
from lemmse.index.mixture import Mixture
from lemmse.index.moments import Basis, Moments
from lemmse.index.physics import InverseProblem
from lemmse.index.sources import intensities
from lemmse.index.strata import Strata

__all__ = ["Index", "open_index"]


@dataclass(frozen=True)
class Index:
    """An index version, verified when it was opened; arrays are read when they are asked for."""

    name: str
    """Name of the index: its folder's."""
    version: str
    """Version under that name."""
    folder: Path
    """Where the version lies."""
    manifest: Manifest
    """What it holds."""

    @cached_property
    def problem(self) -> InverseProblem:
        """The inverse problem that it was built for."""
        stored = {name: np.asarray(array[:]) for name, array in self._members("physics").items()}
        return InverseProblem.restore(self.manifest.physics, self.manifest.pre_inverse, stored)

    @cached_property
    def strata(self) -> Strata:
        """The strata of its keys."""
        arrays = {name: np.asarray(array[:]) for name, array in self._members("strata").items()}
        return Strata(arrays["scale"], arrays.get("whitener"), arrays.get("constants"))

    @cached_property
    def strata_cells(self) -> NDArray[np.int64]:
        """First cell of each stratum, and the number of cells, (S + 1,)."""
        return np.asarray(self._members("strata")["cells"][:])

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """First key of each cell, and the number of keys, (cells + 1,)."""
        return np.asarray(self._members("cells")["keys"][:])

    @cached_property
    def cell_leaves(self) -> NDArray[np.int64]:
        """First leaf of each cell, and the number of leaves, (cells + 1,)."""
        return np.asarray(self._members("cells")["leaves"][:])

    @cached_property
    def leaves(self) -> NDArray[np.int64]:
        """First key of each leaf, and the number of keys, (leaves + 1,)."""
        return np.asarray(self._members("leaves")["keys"][:])

    @cached_property
    def basis(self) -> Basis:
        """The principal axes that the moments of the leaves are along."""
        return Basis(**{name: np.asarray(array[:]) for name, array in self._members("basis").items()})

    def moments(self) -> Moments:
        """Moments of the leaves."""
        arrays = self._members("leaves")
        return Moments(**{field.name: np.asarray(arrays[field.name][:]) for field in fields(Moments)})

    @cached_property
    def mixture(self) -> Mixture | None:
        """The mixture of Gaussians that was fitted to the patches, where there is one."""
        if not self.manifest.gaussians:
            return None
        return Mixture(**{name: np.asarray(array[:]) for name, array in self._members("mixture").items()})

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the training images; zeros where their sizes differ."""
        height, width = self._sizes[0].tolist() if (self._sizes == self._sizes[0]).all() else (0, 0)
        return height, width

    def images(self) -> Images[Any]:
        """The training images, in the source's dtype."""
        return Images(np.asarray(self._members("images")["pixels"][:]), self._sizes)

    @cached_property
    def _arrays(self) -> zarr.Group:
        return store.open_arrays(self.folder / ARRAYS)

    def _members(self, name: str) -> dict[str, "zarr.Array[Any]"]:
        """The arrays of a group by name; none where there is no such group."""
        group = self._arrays.get(name)
        return dict(group.arrays()) if isinstance(group, zarr.Group) else {}

    @property
    def patch_length(self) -> int:
        """P = p²·C."""
        return self.manifest.patch_size**2 * self.manifest.channels

    def keys(self, start: int, stop: int) -> NDArray[np.float32]:
        """Distinct keys v in leaf order, float32, shape (stop − start, P)."""
        return store.read(self._arrays, "keys", start, stop)

    @cached_property
    def counts(self) -> NDArray[np.integer]:
        """How many training patches have each key, (U,)."""
        return store.read(self._arrays, "counts", 0, self.manifest.distinct)

    @cached_property
    def copies(self) -> NDArray[np.int64]:
        """The first training patch that has each key, and the number of patches, (U + 1,).

        Patches are numbered in the order of their keys.
        """
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def targets(self, start: int, stop: int) -> NDArray[np.float32]:
        """Targets t of training patches in the order of their keys, float32, shape (stop − start, C)."""
        return store.read(self._arrays, "targets", start, stop)

    def ids(self, start: int, stop: int) -> NDArray[np.int32]:
        """Training image, row and column of patches in the order of their keys, shape (stop − start, 3)."""
        return store.read(self._arrays, "ids", start, stop)

    def symmetries(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Which copy of the image these were cut from, see `symmetries.py`, shape (stop − start,)."""
        if self.manifest.augment == "none":
            return np.zeros(stop - start, np.uint8)
        return store.read(self._arrays, "symmetries", start, stop)

    def pixel(self, image: int, row: int, column: int) -> NDArray[np.float32]:
        """A pixel of a training image, intensities, shape (C,)."""
        n = int(self._first_pixels[image] + row * self._sizes[image, 1] + column)
        return intensities(store.read(self._arrays, "images/pixels", n, n + 1)[0])

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Heights and widths of the training images, (K, 2)."""
        return np.asarray(self._members("images")["sizes"][:])

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
    def neighbours(self) -> faiss.IndexIVFFlat:
        """The FAISS index; it numbers the keys in leaf order."""
        return faiss.read_index(str(self.folder / NEIGHBOURS))


def open_index(path: str | os.PathLike[str]) -> Index:
    """Open the current version of an index, after comparing every file with its checksum.

    Raises
    ------
    NotFound
        There is no index at `path`.
    DataLoss
        A file is missing, cut short or altered.
    UnsupportedFormat
        A newer version of lemmse wrote it.
    """
    root = Path(os.path.abspath(path))
    version, folder = current_version(root)
    try:
        manifest = Manifest.read(folder)
        manifest.verify(folder)
    except (DataLoss, UnsupportedFormat) as error:
        raise type(error)(f"index {root.name!r} version {version}: {error}") from error
    return Index(root.name, version, folder, manifest)
