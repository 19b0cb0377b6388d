"""Write a shard: gather the patches of its cells, split the cells into leaves, and store both."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from lemmse.index.building.assign import Assignment
from lemmse.index.clustering import leaves
from lemmse.index.clustering.distinct import first_equal
from lemmse.index.clustering.groups import Groups
from lemmse.index.clustering.moments import Basis, Moments, key_moments
from lemmse.index.clustering.sketches import CellSketches, sketch_cells
from lemmse.index.clustering.summaries import summarize_leaves
from lemmse.index.patches.corpus import Corpus
from lemmse.index.ranges import joined_ranges, row_slices
from lemmse.index.storage import inverted_lists, shards, zarr_store
from lemmse.index.storage.packing import pack
from lemmse.index.storage.quantization import Quantization

if TYPE_CHECKING:
    import zarr

__all__ = ["CellPatches", "gather", "write_groups", "write_neighbours", "write_shard"]


@dataclass(frozen=True, slots=True)
class CellPatches:
    """The patches of a range of cells, sorted by cell and key."""

    v: NDArray[np.float32]
    """Distinct keys, (U, P)."""
    cell_keys: NDArray[np.int64]
    """First key of each cell, followed by U."""
    key_patches: NDArray[np.int64]
    """First patch of each key, followed by the number of patches M, (U + 1,)."""
    columns: dict[str, NDArray[Any]]
    """Targets, ids and symmetries of the patches, M rows each."""

    def reorder(self, order: NDArray[np.int64]) -> "CellPatches":
        """Return the patches with the keys in another order, which must keep keys in their cells."""
        counts = np.diff(self.key_patches)[order]
        key_patches = np.concatenate([[0], np.cumsum(counts)])
        rows = joined_ranges(self.key_patches[order], counts)
        columns = {name: column[rows] for name, column in self.columns.items()}
        return CellPatches(self.v[order], self.cell_keys, key_patches, columns)


def gather(
    corpus: Corpus, assignment: Callable[[int], Assignment], first: int, end: int, most: int
) -> CellPatches:
    """Return the patches of cells first … end − 1, extracted in blocks of at most `most`.

    Parameters
    ----------
    corpus : Corpus
        The training patches.
    assignment : callable
        Returns the assignment of a block, given its number.
    first, end : int
        The first cell, and the one after the last.
    most : int
        Largest number of patches to extract at a time.
    """
    keys: list[NDArray[np.float32]] = []
    key_cells: list[NDArray[np.int64]] = []
    key_of_patch: list[NDArray[np.int64]] = []
    columns: dict[str, list[NDArray[Any]]] = {"targets": [], "ids": []}
    if corpus.symmetries > 1:
        columns["symmetries"] = []
    count = 0
    for block in range(len(corpus.blocks) - 1):
        offsets = assignment(block).offsets[first : end + 1]
        if offsets[0] == offsets[-1]:
            continue
        patches = corpus.block(block)
        rows = assignment(block).rows(offsets[0], offsets[-1])
        cell = np.repeat(np.arange(first, end), np.diff(offsets))
        for chunk in row_slices(len(rows), most):
            v = patches.keys(rows[chunk])
            new, number = np.unique(first_equal(v, cell[chunk]), return_inverse=True)
            keys.append(v[new])
            key_cells.append(cell[chunk][new])
            key_of_patch.append(count + number)
            count += len(new)
            columns["targets"].append(patches.targets(rows[chunk]))
            columns["ids"].append(patches.ids(rows[chunk]))
            if corpus.symmetries > 1:
                columns["symmetries"].append(patches.symmetry(rows[chunk]))
    v, cell = np.concatenate(keys), np.concatenate(key_cells)
    del keys
    equal = first_equal(v, cell)
    distinct = np.flatnonzero(equal == np.arange(len(v)))
    order = distinct[np.argsort(cell[distinct], kind="stable")]
    place = np.empty(len(v), np.int64)
    place[order] = np.arange(len(order))
    key = place[equal][np.concatenate(key_of_patch)]
    by_key = np.argsort(key, kind="stable")
    return CellPatches(
        v=v[order],
        cell_keys=np.searchsorted(cell[order], np.arange(first, end + 1)),
        key_patches=np.searchsorted(key[by_key], np.arange(len(order) + 1)),
        columns={name: np.concatenate(blocks)[by_key] for name, blocks in columns.items()},
    )


def write_shard(
    folder: Path,
    gathered: CellPatches,
    centroids: NDArray[np.float32],
    basis: Basis,
    quantization: Quantization,
    seed: int,
    most: int,
) -> int:
    """Split cells into leaves, write their shard, and return the number of leaves."""
    order, leaf_keys, cell_leaves = _split_cells(gathered, basis, seed)
    patches = gathered.reorder(order)
    v, key_patches, targets = patches.v, patches.key_patches, patches.columns["targets"]
    folder.mkdir(parents=True)
    group = zarr_store.create(folder / shards.ARRAYS)
    q = _encode(v, quantization)
    zarr_store.write_plain(group, "keys", pack(q))
    zarr_store.write_plain(group, "moments", pack(key_moments(targets, key_patches)))
    zarr_store.write(group, "counts", np.diff(key_patches).astype(np.int32))
    for name, column in patches.columns.items():
        zarr_store.write(group, name, column)
    zarr_store.write(group, "cells/keys", patches.cell_keys)
    zarr_store.write(group, "cells/leaves", cell_leaves)
    zarr_store.write(group, "leaves/keys", leaf_keys)
    zarr_store.write(group, "leaves/patches", key_patches[leaf_keys])
    moments = summarize_leaves(
        lambda start, stop: v[start:stop],
        lambda start, stop: targets[start:stop],
        leaf_keys,
        key_patches,
        basis=basis,
        most=most,
    )
    n, of_cells = np.diff(key_patches[leaf_keys]), np.unique(cell_leaves)
    write_groups(group, Groups.of(moments, n, of_cells), Moments.merge(moments, n, of_cells))
    cells = np.unique(patches.cell_keys)
    _write_sketches(group, sketch_cells(lambda start, stop: v[start:stop], cells, basis=basis, most=most))
    write_neighbours(folder / shards.NEIGHBOURS, q, patches.cell_keys, centroids, quantization)
    return len(leaf_keys) - 1


def _encode(v: NDArray[np.float32], quantization: Quantization) -> NDArray[Any]:
    """Return the quantized keys, without a temporary copy of all keys."""
    if quantization.dtype == v.dtype:
        return v
    q = np.empty(v.shape, quantization.dtype)
    for chunk in row_slices(len(v)):
        q[chunk] = quantization.encode(v[chunk])
    return q


def write_groups(group: "zarr.Group", groups: Groups, cells: Moments) -> None:
    """Write the summary statistics of the leaves, and those of the nonempty cells."""
    for name in Groups.stored_names():
        if (values := getattr(groups, name)).size:
            zarr_store.write_plain(group, f"leaves/{name}", values)
    zarr_store.write(group, "cells/moments", cells.rows())


def _write_sketches(group: "zarr.Group", sketches: CellSketches) -> None:
    for name in ("centre", "step", "off"):
        zarr_store.write_plain(group, f"sketches/{name}", getattr(sketches, name))
    for name in ("near", "more"):
        zarr_store.write_plain(group, f"sketches/{name}", pack(getattr(sketches, name)))


def write_neighbours(
    path: Path,
    q: NDArray[Any],
    cell_keys: NDArray[np.int64],
    centroids: NDArray[np.float32],
    quantization: Quantization,
) -> None:
    """Write the FAISS index of quantized keys."""
    index = inverted_lists.empty_index(centroids, quantization)
    inverted_lists.add(index, q, quantization, 0, np.repeat(np.arange(len(centroids)), np.diff(cell_keys)))
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS raises this for OS errors
        raise OSError(f"cannot write {path.name}; is the disk full?") from error


def _split_cells(
    gathered: CellPatches, basis: Basis, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Split cells into leaves.

    Returns
    -------
    order : int64, (U,)
        Numbers of the keys, sorted by cell and leaf.
    leaf_keys : int64, (leaves + 1,)
        First key of each leaf, followed by U.
    cell_leaves : int64, (cells + 1,)
        First leaf of each cell, followed by the number of leaves.
    """
    order = np.arange(len(gathered.v))
    sizes: list[NDArray[np.int64]] = []  # of leaves, for each cell

    def split(start: int, stop: int) -> NDArray[np.int64]:
        if start == stop:  # k-means may leave cells empty
            return np.zeros(0, np.int64)
        return leaves.split(basis.rotate(gathered.v[start:stop]), seed)

    # Cells are small, so that one thread per cell is faster than all threads on one cell at a time.
    with ThreadPoolExecutor(
        faiss.omp_get_max_threads(), initializer=faiss.omp_set_num_threads, initargs=(1,)
    ) as pool:
        starts, stops = gathered.cell_keys[:-1], gathered.cell_keys[1:]
        for start, leaf in zip(starts, pool.map(split, starts, stops), strict=True):
            order[start : start + len(leaf)] = start + np.argsort(leaf, kind="stable")
            sizes.append(np.bincount(leaf))
    return (
        order,
        np.concatenate([[0], *sizes]).cumsum(),
        np.array([0, *map(len, sizes)]).cumsum(),
    )
