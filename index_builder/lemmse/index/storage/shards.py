"""Shards: the keys of some cells, with their leaves and patches, in a self-contained folder.

    shards/0000/arrays.zarr
      keys         (⌈U/32⌉, P, 32)  the distinct v_km, in leaf order, quantized by
                                    quantization.py, packed by packing.py
      moments      (⌈U/32⌉, 1 + 2C, 32)  float32  n, Σ t and Σ t² of the patches of each key, packed
      counts       (U,)    int32    training patches of each key
      targets      (M, C)  float32  t_km, the clean centre pixels, in the order of the keys
      ids          (M, 3)  int32    training image, row, column of each patch
      symmetries   (M,)    uint8    the symmetric copy that each was cut from, see symmetries.py; only
                                    with `augment` dihedral
      cells/keys   (n+1,)  int64    cell c of the shard has the keys cells/keys[c] … cells/keys[c + 1] − 1
      cells/leaves (n+1,)  int64    and the leaves cells/leaves[c] … cells/leaves[c + 1] − 1
      leaves/keys  (L+1,)  int64    leaf l has the keys leaves/keys[l] … leaves/keys[l + 1] − 1
      leaves/patches (L+1,) int64   and the patches leaves/patches[l] … leaves/patches[l + 1] − 1
      cells/moments (n', …) float32 moments of the cells that have keys, see moments.py
      leaves/…     (…)     float32  moments of the leaves in the layout of groups.py
      sketches/…           sketches of the keys, see sketches.py
    shards/0000/neighbours.faiss    the inverted file of its keys, see inverted_lists.py

The cells of an index are the cells of its shards in order, and likewise its leaves and keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import faiss
import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index.storage import inverted_lists, zarr_store
from lemmse.index.storage.packing import Packed, aligned
from lemmse.index.storage.pinned import PinnedFiles
from lemmse.index.storage.quantization import Quantization

__all__ = ["ARRAYS", "NEIGHBOURS", "Shards", "name_of"]

ARRAYS = "arrays.zarr"
NEIGHBOURS = "neighbours.faiss"


def name_of(number: int) -> str:
    """Return the path of a shard in the folder of its version."""
    return f"shards/{number:04}"


@dataclass(frozen=True)
class Shards:
    """The shards of an index version."""

    files: PinnedFiles
    """The files of the version."""
    names: Sequence[str]
    """The paths of the shards."""

    @cached_property
    def _groups(self) -> list[zarr.Group]:
        return [zarr_store.open_pinned(self.files, f"{name}/{ARRAYS}") for name in self.names]

    @cached_property
    def _row_offsets(self) -> dict[str, NDArray[np.int64]]:
        return {}

    def _first_rows(self, name: str) -> NDArray[np.int64]:
        """Return the first row of an array in each shard, followed by the number of rows."""
        if name not in self._row_offsets:
            counts = [zarr_store.shape(group, name)[0] for group in self._groups]
            self._row_offsets[name] = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return self._row_offsets[name]

    def first(self) -> tuple[NDArray[np.int64], ...]:
        """Return the first distinct key, patch, cell and leaf of each shard, each followed by the total."""
        offsets = (self._first_rows(name) for name in ("cells/keys", "leaves/keys"))
        # A shard of n cells has n + 1 offsets.
        cells, leaves = (rows - np.arange(len(rows)) for rows in offsets)
        return self._first_rows("counts"), self._first_rows("ids"), cells, leaves

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows start … stop − 1 of an array that is concatenated over all shards."""
        parts = [
            zarr_store.read(group, name, max(start, first) - first, min(stop, end) - first)
            for group, (first, end) in zip(
                self._groups, pairwise(self._first_rows(name).tolist()), strict=True
            )
            if start < end and first < stop
        ]
        return np.concatenate(parts or [zarr_store.read(self._groups[0], name, 0, 0)])

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows of an array that is concatenated over all shards, in the given order."""
        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(rows[order], self._first_rows(name))
        parts = [
            zarr_store.take(group, name, rows[order[begin:end]] - first)
            for group, first, (begin, end) in zip(
                self._groups, self._first_rows(name).tolist(), pairwise(ends.tolist()), strict=False
            )
            if begin < end
        ]
        found = np.concatenate(parts or [zarr_store.read(self._groups[0], name, 0, 0)])
        return found[np.argsort(order)]

    def read_all(self, name: str) -> NDArray[Any]:
        """Return all rows of an array."""
        return self.read(name, 0, int(self._first_rows(name)[-1]))

    def offsets(self, name: str) -> NDArray[np.int64]:
        """Return an array of offsets, which are stored relative to each shard, for all shards."""
        parts, done = [np.zeros(1, np.int64)], 0
        for group in self._groups:
            own = zarr_store.read_all(group, name)
            parts.append(own[1:] + done)
            done += int(own[-1])
        return np.concatenate(parts)

    def packed(self, name: str) -> Packed:
        """Return a packed array, which stays in its files."""
        shapes = [zarr_store.shape(group, name) for group in self._groups]
        values, begins = self.files.values(
            self._plain_files(name, len(shapes[0])),
            [prod(shape) for shape in shapes],
            zarr_store.dtype(self._groups[0], name),
        )
        return Packed(values, shapes[0][1], self._first_rows("counts"), begins)

    def has(self, name: str) -> bool:
        """Return whether the shards have an array of this name."""
        return name in self._groups[0]

    def plain(self, name: str) -> NDArray[np.float32]:
        """Return all rows of a plain float32 array, which stays in its file if there is one shard."""
        shapes = [zarr_store.shape(group, name) for group in self._groups]
        files = self._plain_files(name, len(shapes[0]))
        parts = [
            self.files.values([file], [prod(shape)], np.float32)[0].reshape(shape)
            for file, shape in zip(files, shapes, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        rows = sum(len(part) for part in parts)
        return np.concatenate(parts, out=aligned((rows, *parts[0].shape[1:])))

    def neighbours(self, centroids: NDArray[np.float32], quantization: Quantization) -> faiss.IndexIVF:
        """Return the FAISS index over all cells, given their centroids; shards number their keys from 0."""
        sizes = [np.diff(zarr_store.read_all(group, "cells/keys")) for group in self._groups]
        files = [self.files[f"{name}/{NEIGHBOURS}"] for name in self.names]
        return inverted_lists.pinned(centroids, quantization, sizes, files)

    def _plain_files(self, name: str, dimensions: int) -> list[str]:
        return [f"{shard}/{ARRAYS}/{zarr_store.plain_file(name, dimensions)}" for shard in self.names]
