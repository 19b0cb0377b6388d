"""Build an index: read the images, group their patches into cells and leaves, write everything in leaf order.

Patches are cut when they are needed, in each pass anew, so the builder holds the images, some numbers for
each patch and one shard of keys at a time, beside the FAISS index that it fills.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index import cells, leaves, store
from lemmse.index.distinct import DistinctKeys
from lemmse.index.errors import InvalidArgument
from lemmse.index.folder import ARRAYS, NEIGHBOURS, SOURCES, publishing
from lemmse.index.images import BOUNDARIES, Images
from lemmse.index.manifest import FORMAT, Manifest, checksum
from lemmse.index.mixture import Mixture, fit_mixture
from lemmse.index.moments import Basis, Moments
from lemmse.index.patches import Patches
from lemmse.index.physics import InverseProblem
from lemmse.index.sources import concatenate, intensities, iterate, open_source

__all__ = ["AUGMENTS", "EQUIVARIANCES", "PATCH_SIZE_MAX", "Progress", "build"]

AUGMENTS = ("none", "dihedral")
EQUIVARIANCES = ("none", "offset")

PATCH_SIZE_MAX = 64
"""Largest patch side: a key of three channels then has 12 288 numbers."""
_BASIS_SAMPLE = 1 << 17
"""Keys that the principal axes are taken from."""
_SEED_MAX = 2**31 - 1
"""Largest seed that FAISS takes."""

Progress = Callable[[str, int, int], None]
"""Called with the stage, what is done of it, and its total."""


def build(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    patch_size: int = 5,
    physics: str = "identity",
    pre_inverse: str = "identity",
    boundary: str = "circular",
    equivariance: str = "none",
    augment: str = "none",
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Build an index of all translated training patches.

    Parameters
    ----------
    sources : sequence of str or path
        Where the training images come from, see `lemmse.index.sources`.
    out : path
        The folder to make; its name is the name of the index.
    patch_size : int
        Side p of the patches, 1 to 64, odd or even; see `lemmse.index.images` for the centre.
    physics, pre_inverse : str
        Specifications of A and B, see `lemmse.index.physics`.
    boundary : str
        How positions outside an image are read.
    equivariance : str
        "offset" has the estimator commute with constants added to a channel, as "none" does not: every patch
        stands for all its levels. For physics identity and blur.
    augment : str
        "dihedral" adds all rotations by 90° and mirror images of the training images, see
        `lemmse.index.symmetries`.
    limit : int, optional
        Use only the first `limit` images.
    seed : int
        Seed of the clustering and of samples; the same arguments and seed give the same index.
    progress : callable
        Called as `progress(stage, done, total)`.

    Returns
    -------
    Path
        The index folder.

    Raises
    ------
    InvalidArgument, NotFound
        An argument or an image is not what was expected.
    AlreadyExists
        `out` is there.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(f"{folder.name}/images.npy", np.zeros((2, 8, 8), np.uint8))
    >>> build([f"{folder.name}/images.npy"], f"{folder.name}/index").name
    'index'
    >>> folder.cleanup()
    """
    problem = InverseProblem.parse(physics, pre_inverse)
    _require_in("patch-size", patch_size, 1, PATCH_SIZE_MAX)
    if limit is not None:
        _require_in("limit", limit, 1)
    _require_in("seed", seed, 0, _SEED_MAX)
    for argument, value, known in (
        ("boundary", boundary, BOUNDARIES),
        ("equivariance", equivariance, EQUIVARIANCES),
        ("augment", augment, AUGMENTS),
    ):
        if value not in known:
            raise InvalidArgument(argument, f"expected one of {', '.join(known)}, got {value!r}")
    if not os.fspath(out):
        raise InvalidArgument("out", "expected the name of a new folder, got an empty one")
    out = Path(os.path.abspath(out))
    with publishing(out) as folder:
        images, labels = _read(sources, limit, progress)
        clean = Images(intensities(images.pixels), images.sizes)
        patches, condition = Patches.of(
            problem, clean, patch_size, boundary, equivariance=equivariance, augment=augment
        )
        keys = DistinctKeys.of(patches, lambda done: progress("find equal keys", done, len(patches)))
        centroids, cell, strata_cells = _cluster(keys, seed, progress)
        basis = _basis(keys, seed)
        order, leaf_edges, cell_leaves, moments = _arrange(keys, basis, cell, len(centroids), seed, progress)
        mixture = None
        if (physics, pre_inverse) == ("identity", "identity"):
            mixture = fit_mixture(patches, seed, lambda done, total: progress("fit Gaussians", done, total))
        group = store.create(folder / ARRAYS)
        for name, array in {
            "images/pixels": images.pixels,
            "images/sizes": images.sizes,
            "strata/scale": patches.strata.scale,
            "strata/cells": strata_cells,
            "cells/keys": leaf_edges[cell_leaves],
            "cells/leaves": cell_leaves,
            "leaves/keys": leaf_edges,
            **{f"leaves/{field.name}": getattr(moments, field.name) for field in fields(Moments)},
            **{f"basis/{field.name}": getattr(basis, field.name) for field in fields(Basis)},
            **{f"mixture/{field.name}": getattr(mixture, field.name) for field in fields(Mixture) if mixture},
            **{
                f"strata/{name}": array
                for name in ("whitener", "constants")
                if (array := getattr(patches.strata, name)) is not None
            },
            **{f"physics/{name}": array for name, array in problem.arrays.items()},
        }.items():
            store.create_array(group, name, array.shape, array.dtype)[:] = array
        _write_keys(group, folder / NEIGHBOURS, keys, centroids, cell, order, progress)
        (folder / SOURCES).write_text(json.dumps(labels))
        Manifest(
            format=FORMAT,
            lemmse=version("lemmse"),
            sources=tuple(str(source) for source in sources),
            digest=_digest(images),
            images=len(images),
            channels=images.pixels.shape[1],
            dtype=images.pixels.dtype.name,
            physics=physics,
            pre_inverse=pre_inverse,
            boundary=boundary,
            equivariance=equivariance,
            augment=augment,
            patch_size=patch_size,
            keys=len(patches),
            distinct=len(keys),
            cells=len(centroids),
            leaves=len(leaf_edges) - 1,
            strata=len(patches.strata),
            gaussians=len(mixture.weights) if mixture else 0,
            condition=condition,
            seed=seed,
            files={
                str(path.relative_to(folder)): checksum(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            },
        ).write(folder)
    return out


def _read(
    sources: Sequence[str | os.PathLike[str]], limit: int | None, progress: Progress
) -> tuple[Images[Any], list[str]]:
    """The training images in one dtype, and where each came from."""
    source = concatenate([open_source(spec) for spec in sources])
    total = len(source) if limit is None else min(limit, len(source))
    images: list[NDArray[Any]] = []
    labels: list[str] = []
    for image, label in islice(iterate(source), total):
        images.append(image)
        labels.append(label)
        progress("read images", len(images), total)
    if len({image.dtype for image in images}) > 1:
        images = [intensities(image) for image in images]
    return Images.stack(images), labels


def _cluster(
    keys: DistinctKeys, seed: int, progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Group the keys of each stratum into cells.

    Returns
    -------
    centroids of all cells (n, P), cell of each key (U,), first cell of each stratum and their number (S + 1,)
    """
    rng = np.random.default_rng(seed)
    centroids: list[NDArray[np.float32]] = []
    cell = np.empty(len(keys), np.int64)
    first = [0]
    stratum = keys.stratum
    by_stratum = np.argsort(stratum, kind="stable")
    done = 0
    for rows in np.split(by_stratum, np.cumsum(np.bincount(stratum))[:-1]):
        count = cells.cell_count(len(rows))
        sample = rng.permutation(rows)[: count * cells.SAMPLE_PER_CELL]
        centroids.append(cells.fit(keys.cut(np.sort(sample)), count, seed))
        progress("fit cells", len(centroids), len(keys.patches.strata))
        for start, stop in _ranges(len(rows), store.CHUNK):
            cell[rows[start:stop]] = first[-1] + cells.nearest(keys.cut(rows[start:stop]), centroids[-1])
            progress("assign keys", done + stop, len(keys))
        done += len(rows)
        first.append(first[-1] + count)
    return np.concatenate(centroids), cell, np.array(first, np.int64)


def _basis(keys: DistinctKeys, seed: int) -> Basis:
    """Principal axes of the keys of all strata, from a sample."""
    sample = np.random.default_rng(seed).permutation(len(keys))[:_BASIS_SAMPLE]
    return Basis.of(keys.cut(np.sort(sample)))


def _arrange(
    keys: DistinctKeys,
    basis: Basis,
    cell: NDArray[np.int64],
    cell_count: int,
    seed: int,
    progress: Progress,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Moments]:
    """Cut the cells into leaves.

    Returns
    -------
    key at each place of the order by cell and leaf (U,), first place of each leaf and the number of keys
    (leaves + 1,), first leaf of each cell and their number (cells + 1,), moments of the leaves
    """
    order = np.argsort(cell, kind="stable")
    edges = np.searchsorted(cell[order], np.arange(cell_count + 1))
    sizes: list[NDArray[np.int64]] = []  # of the leaves of each cell
    moments: list[Moments] = []
    first = 0
    while first < cell_count:
        # As many whole cells as fill a shard, and one at least.
        end = max(first + 1, int(np.searchsorted(edges, edges[first] + store.SHARD, side="right")) - 1)
        rows = order[edges[first] : edges[end]]
        v = basis.rotate(keys.cut(rows))
        by_leaf = np.empty(len(rows), np.int64)
        for start, stop in pairwise(edges[first : end + 1] - edges[first]):
            leaf = leaves.split(v[start:stop], seed) if stop > start else np.zeros(0, np.int64)
            by_leaf[start:stop] = start + np.argsort(leaf, kind="stable")
            sizes.append(np.bincount(leaf))
        order[edges[first] : edges[end]] = rows = rows[by_leaf]
        of_leaves = np.concatenate([[0], *sizes[first:end]]).cumsum()
        if len(rows):
            t = keys.patches.targets(keys.copies(rows))
            copies = np.concatenate([[0], keys.counts(rows).cumsum()])
            moments.append(Moments.of(v[by_leaf], t, of_leaves, copies))
        first = end
        progress("cut leaves", int(edges[end]), len(keys))
    counts = [len(of_cell) for of_cell in sizes]
    return (
        order,
        np.concatenate([[0], *sizes]).cumsum(),
        np.array([0, *counts]).cumsum(),
        Moments.join(moments),
    )


def _write_keys(
    group: zarr.Group,
    neighbours: Path,
    keys: DistinctKeys,
    centroids: NDArray[np.float32],
    cell: NDArray[np.int64],
    order: NDArray[np.int64],
    progress: Progress,
) -> None:
    """Write the keys in leaf order, the patches that have them, and the FAISS index with the same numbers."""
    index = cells.empty_index(centroids)
    array = store.create_array(group, "keys", (len(keys), index.d), np.float32)
    for start, stop in _ranges(len(keys), store.SHARD):
        numbers = order[start:stop]
        v = keys.cut(numbers)
        array[start:stop] = v
        cells.add(index, v, start, cell[numbers])
        progress("write keys", stop, len(keys))
    patches, rows = keys.patches, keys.copies(order)
    store.create_array(group, "counts", (len(keys),), np.int32)[:] = keys.counts(order)
    columns: dict[str, Callable[[NDArray[np.int64]], NDArray[Any]]] = {
        "targets": patches.targets,
        "ids": patches.ids,
    }
    if patches.symmetries > 1:
        columns["symmetries"] = patches.symmetry
    written = {}
    for name, column in columns.items():
        sample = column(rows[:1])
        written[name] = store.create_array(group, name, (len(rows), *sample.shape[1:]), sample.dtype)
    for start, stop in _ranges(len(rows), store.SHARD):
        for name, column in columns.items():
            written[name][start:stop] = column(rows[start:stop])
        progress("write targets", stop, len(rows))
    try:
        faiss.write_index(index, str(neighbours))
    except RuntimeError as error:
        # FAISS has no class for it; Zarr, which wrote before, raises OSError by itself.
        raise OSError(f"cannot write {neighbours.name}; is the disk full?") from error


def _ranges(total: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, total)) for start in range(0, total, step))


def _digest(images: Images[Any]) -> str:
    digest = hashlib.sha256(images.pixels.dtype.name.encode())
    digest.update(images.sizes.tobytes())
    digest.update(np.ascontiguousarray(images.pixels).tobytes())
    return digest.hexdigest()


def _require_in(argument: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        bounds = f">= {least}" if most is None else f"in [{least}, {most}]"
        raise InvalidArgument(argument, f"expected a whole number {bounds}, got {value}")
