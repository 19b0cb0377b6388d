"""Shards: the keys of some of the cells, with all that belongs to them, in a folder that stands by itself.

    shards/0000/arrays.zarr
      keys         (⌈U/32⌉, P, 32)  the distinct v_km, in leaf order, stored as in
                                    quantization.py, packed as in packing.py
      moments      (⌈U/32⌉, 1 + 2C, 32)  float32  n, Σ t and Σ t² of the patches that have each, likewise
      counts       (U,)    int32    how many training patches have each
      targets      (M, C)  float32  t_km, the clean centre pixels, in the order of the keys
      ids          (M, 3)  int32    training image, row, column of each patch, in the same order
      symmetries   (M,)    uint8    the copy of the image that it was cut from, see symmetries.py; only where
                                    there is more than one
      cells/keys   (n+1,)  int64    cell c of the shard holds its keys cells/keys[c] … cells/keys[c + 1] − 1
      cells/leaves (n+1,)  int64    and its leaves cells/leaves[c] … cells/leaves[c + 1] − 1
      leaves/keys  (L+1,)  int64    leaf l holds the keys leaves/keys[l] … leaves/keys[l + 1] − 1
      leaves/patches (L+1,) int64   and their patches leaves/patches[l] … leaves/patches[l + 1] − 1
      cells/moments (n', …) float32 moments of the cells that have keys, see moments.py
      leaves/…     (…)     float32  those of the leaves, as groups.py lays them out
      sketches/…           of the keys, see sketching.py; only where keys are large
    shards/0000/neighbours.faiss    the FAISS index of its keys, see cells.py

The cells of an index are those of its shards, one shard after the other, and so are its leaves and keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index.storage import inverted_lists, zarr_store
from lemmse.index.storage.mapped import map_files
from lemmse.index.storage.packing import Packed, aligned

__all__ = ["ARRAYS", "NEIGHBOURS", "Shards", "folder_of"]

ARRAYS = "arrays.zarr"
NEIGHBOURS = "neighbours.faiss"


def folder_of(version: Path, number: int) -> Path:
    """Where a shard lies."""
    return version / "shards" / f"{number:04}"


@dataclass(frozen=True)
class Shards:
    """The shards of an index version."""

    folders: Sequence[Path]

    @cached_property
    def _groups(self) -> list[zarr.Group]:
        return [zarr_store.open_arrays(folder / ARRAYS) for folder in self.folders]

    @cached_property
    def _known(self) -> dict[str, NDArray[np.int64]]:
        return {}

    def _first_rows(self, name: str) -> NDArray[np.int64]:
        """First row of an array in each shard, and the number of rows."""
        if name not in self._known:
            counts = [zarr_store.shape(group, name)[0] for group in self._groups]
            self._known[name] = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return self._known[name]

    def first(self) -> tuple[NDArray[np.int64], ...]:
        """First distinct key, patch, cell and leaf of each shard, and their numbers."""
        edges = (self._first_rows(name) for name in ("cells/keys", "leaves/keys"))
        # Of n there are n + 1 edges.
        cells, leaves = (rows - np.arange(len(rows)) for rows in edges)
        return self._first_rows("counts"), self._first_rows("ids"), cells, leaves

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop − 1 of an array, over all shards."""
        parts = [
            zarr_store.read(group, name, max(start, first) - first, min(stop, end) - first)
            for group, (first, end) in zip(
                self._groups, pairwise(self._first_rows(name).tolist()), strict=True
            )
            if start < end and first < stop
        ]
        return np.concatenate(parts or [zarr_store.read(self._groups[0], name, 0, 0)])

    def read_all(self, name: str) -> NDArray[Any]:
        """All rows of an array."""
        return self.read(name, 0, int(self._first_rows(name)[-1]))

    def edges(self, name: str) -> NDArray[np.int64]:
        """First of each, and their number, of what counts anew in each shard."""
        parts, done = [np.zeros(1, np.int64)], 0
        for group in self._groups:
            own = zarr_store.read_all(group, name)
            parts.append(own[1:] + done)
            done += int(own[-1])
        return np.concatenate(parts)

    def packed(self, name: str) -> Packed:
        """The rows of an array of packed keys, mapped: what is read comes through the page cache."""
        shapes = [zarr_store.shape(group, name) for group in self._groups]
        files = [
            (zarr_store.plain_file(folder / ARRAYS, name, len(shape)), prod(shape))
            for folder, shape in zip(self.folders, shapes, strict=True)
        ]
        values, begins = map_files(files, zarr_store.dtype(self._groups[0], name))
        return Packed(values, shapes[0][1], self._first_rows("counts"), begins)

    def has(self, name: str) -> bool:
        """Whether there is an array of a name."""
        return name in self._groups[0]

    def plain(self, name: str) -> NDArray[np.float32]:
        """All rows of a float32 array that was stored as one chunk: of one shard mapped, of several read."""
        parts = []
        for folder, group in zip(self.folders, self._groups, strict=True):
            shape = zarr_store.shape(group, name)
            file = zarr_store.plain_file(folder / ARRAYS, name, len(shape))
            values, _ = map_files([(file, prod(shape))], zarr_store.dtype(group, name))
            parts.append(values[: prod(shape)].reshape(shape))
        if len(parts) == 1:
            return parts[0]
        rows = sum(len(part) for part in parts)
        return np.concatenate(parts, out=aligned((rows, *parts[0].shape[1:])))

    def neighbours(self) -> faiss.IndexIVF:
        """The FAISS index over all cells; each shard numbers its own keys."""
        paths = [str(folder / NEIGHBOURS) for folder in self.folders]
        # The lists stay on disk: what is searched comes through the page cache.
        return inverted_lists.stack([faiss.read_index(path, faiss.IO_FLAG_MMAP) for path in paths])
