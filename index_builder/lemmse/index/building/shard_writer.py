"""Arrange a shard: gather the patches of some cells, cut these into leaves, and write it all."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index.building.assign import Assignment
from lemmse.index.clustering import leaves
from lemmse.index.clustering.distinct import first_equal
from lemmse.index.clustering.groups import Groups
from lemmse.index.clustering.moments import Basis, Moments, key_moments
from lemmse.index.clustering.sketches import pays
from lemmse.index.clustering.summaries import summarize_leaves
from lemmse.index.patches.corpus import Corpus
from lemmse.index.storage import inverted_lists, shards, zarr_store
from lemmse.index.storage.packing import pack
from lemmse.index.storage.quantization import Quantization

__all__ = ["Gathered", "gather", "write_shard"]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The patches of some cells, by cell; those of one key are neighbours, ascending."""

    v: NDArray[np.float32]
    """Distinct keys, by cell, (U, P)."""
    cells: NDArray[np.int64]
    """First of the keys of each cell, and U."""
    copies: NDArray[np.int64]
    """First of the patches of each key, and M, (U + 1,)."""
    columns: dict[str, NDArray[Any]]
    """Targets, ids and symmetries of the patches, each of M rows."""


def gather(
    corpus: Corpus, assigned: Callable[[int], Assignment], first: int, end: int, held: int
) -> Gathered:
    """Gather the patches of the cells first … end − 1, so many keys at a time."""
    keys: list[NDArray[np.float32]] = []
    key_cells: list[NDArray[np.int64]] = []
    key_of: list[NDArray[np.int64]] = []
    columns: dict[str, list[NDArray[Any]]] = {"targets": [], "ids": []}
    if corpus.symmetries > 1:
        columns["symmetries"] = []
    known = 0
    for block in range(len(corpus.blocks) - 1):
        edges = assigned(block).edges[first : end + 1]
        if edges[0] == edges[-1]:
            continue
        patches = corpus.block(block)
        rows = assigned(block).rows(edges[0], edges[-1])
        cell = np.repeat(np.arange(first, end), np.diff(edges))
        for start in range(0, len(rows), held):
            some, own = rows[start : start + held], cell[start : start + held]
            v = patches.keys(some)
            same_as = first_equal(v, own)
            new, number = np.unique(same_as, return_inverse=True)
            keys.append(v[new])
            key_cells.append(own[new])
            key_of.append(known + number)
            known += len(new)
            columns["targets"].append(patches.targets(some))
            columns["ids"].append(patches.ids(some))
            if corpus.symmetries > 1:
                columns["symmetries"].append(patches.symmetry(some))
    v, cell = np.concatenate(keys), np.concatenate(key_cells)
    del keys
    same_as = first_equal(v, cell)
    distinct = np.flatnonzero(same_as == np.arange(len(v)))
    order = distinct[np.argsort(cell[distinct], kind="stable")]
    place = np.empty(len(v), np.int64)
    place[order] = np.arange(len(order))
    of_key = place[same_as][np.concatenate(key_of)]
    by_key = np.argsort(of_key, kind="stable")
    return Gathered(
        v=v[order],
        cells=np.searchsorted(cell[order], np.arange(first, end + 1)),
        copies=np.searchsorted(of_key[by_key], np.arange(len(order) + 1)),
        columns={name: np.concatenate(parts)[by_key] for name, parts in columns.items()},
    )


def write_shard(
    folder: Path,
    gathered: Gathered,
    centroids: NDArray[np.float32],
    basis: Basis,
    quantization: Quantization,
    seed: int,
    held: int,
) -> int:
    """Cut the cells into leaves and write a shard; gives the number of leaves."""
    order, leaf_keys, cell_leaves = _cut_leaves(gathered, basis, seed)
    counts = np.diff(gathered.copies)[order]
    copies = np.concatenate([[0], np.cumsum(counts)])
    by_copy = np.arange(copies[-1]) + np.repeat(gathered.copies[order] - copies[:-1], counts)
    v = gathered.v[order]
    columns = {name: column[by_copy] for name, column in gathered.columns.items()}
    folder.mkdir(parents=True)
    group = zarr_store.create(folder / shards.ARRAYS)
    q = _encoded(v, quantization)
    zarr_store.write_plain(group, "keys", pack(q))
    zarr_store.write_plain(group, "moments", pack(key_moments(columns["targets"], copies)))
    zarr_store.write(group, "counts", counts.astype(np.int32))
    for name, column in columns.items():
        zarr_store.write(group, name, column)
    zarr_store.write(group, "cells/keys", gathered.cells)
    zarr_store.write(group, "cells/leaves", cell_leaves)
    zarr_store.write(group, "leaves/keys", leaf_keys)
    zarr_store.write(group, "leaves/patches", copies[leaf_keys])
    moments, sketches = summarize_leaves(
        lambda start, stop: v[start:stop],
        lambda start, stop: columns["targets"][start:stop],
        leaf_keys,
        copies,
        basis=basis,
        sketching=pays(v.shape[1], quantization.dtype.itemsize),
        held=held,
    )
    _write_moments(group, moments, np.diff(copies[leaf_keys]), np.unique(cell_leaves))
    if sketches:
        for name in ("centre", "step", "off"):
            zarr_store.write_plain(group, f"sketches/{name}", getattr(sketches, name))
        for name in ("steps", "rest"):
            zarr_store.write_plain(group, f"sketches/{name}", pack(getattr(sketches, name)))
    index = inverted_lists.empty_index(centroids, quantization)
    inverted_lists.add(
        index, q, quantization, 0, np.repeat(np.arange(len(centroids)), np.diff(gathered.cells))
    )
    path = folder / shards.NEIGHBOURS
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        # FAISS has no class for it; Zarr, which wrote before, raises OSError by itself.
        raise OSError(f"cannot write {path.name}; is the disk full?") from error
    return len(leaf_keys) - 1


def _encoded(v: NDArray[np.float32], quantization: Quantization) -> NDArray[Any]:
    """Keys as they are stored, with no copy of all of them in between."""
    if quantization.dtype == v.dtype:
        return v
    q = np.empty(v.shape, quantization.dtype)
    for start in range(0, len(v), zarr_store.CHUNK):
        q[start : start + zarr_store.CHUNK] = quantization.encode(v[start : start + zarr_store.CHUNK])
    return q


def _write_moments(
    group: zarr.Group, moments: Moments, n: NDArray[np.int64], cell_leaves: NDArray[np.int64]
) -> None:
    """Store the moments of leaves of n patches each, and of the cells that have any."""
    groups = Groups.of(moments, n, cell_leaves)
    for name in Groups.stored():
        if (values := getattr(groups, name)).size:
            zarr_store.write_plain(group, f"leaves/{name}", values)
    zarr_store.write(group, "cells/moments", Moments.merge(moments, n, cell_leaves).rows())


def _cut_leaves(
    gathered: Gathered, basis: Basis, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut the cells into leaves.

    Returns
    -------
    key at each place of the order by cell and leaf (U,), first place of each leaf and U, first leaf of each
    cell and their number
    """
    order = np.arange(len(gathered.v))
    sizes: list[NDArray[np.int64]] = []  # of the leaves of each cell

    def cut(start: int, stop: int) -> NDArray[np.int64]:
        if start == stop:  # k-means may leave a cell empty
            return np.zeros(0, np.int64)
        return leaves.split(basis.rotate(gathered.v[start:stop]), seed)

    # Cells are small: one thread for each is faster than all threads for one after the other.
    with ThreadPoolExecutor(
        faiss.omp_get_max_threads(), initializer=faiss.omp_set_num_threads, initargs=(1,)
    ) as pool:
        for start, leaf in zip(
            gathered.cells, pool.map(cut, gathered.cells[:-1], gathered.cells[1:]), strict=False
        ):
            order[start : start + len(leaf)] = start + np.argsort(leaf, kind="stable")
            sizes.append(np.bincount(leaf))
    return (
        order,
        np.concatenate([[0], *sizes]).cumsum(),
        np.array([0, *map(len, sizes)]).cumsum(),
    )
