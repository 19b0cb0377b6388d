"""Write a version of an index without some of its training images, with the models of the version before.

Shards without a patch of these images are linked, except for the numbers of their images; the others are
written anew, with the statistics that `HeldOutView` corrects. Nothing is fitted. An interrupted removal
begins again, since it takes little longer than to copy the index.
"""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.building.index_images import IndexImages
from lemmse.index.building.ingest import ingest
from lemmse.index.building.plan import BuildPlan
from lemmse.index.building.run import digest_of, other_files, resume
from lemmse.index.building.shard_writer import write_groups, write_neighbours
from lemmse.index.callbacks import Progress
from lemmse.index.reading import Index, ShardView, leave_out, split_shards
from lemmse.index.storage import shards, zarr_store
from lemmse.index.storage.folder import ARRAYS, DEPTHS, SOURCES, STAGED, publish, staging
from lemmse.index.storage.manifest import FileEntry
from lemmse.index.storage.packing import LANES, Packed
from lemmse.index.storage.pinned import IN_MEMORY

__all__ = ["run_removal"]

_CALIBRATED = 0.1
"""Largest share of removed images with which an index keeps its calibration."""


class _Part(NamedTuple):
    """A shard of the new version."""

    shard: ShardView
    """The shard of the version before."""
    unchanged: bool
    """Whether it loses no patch, and gets no cell."""
    before: int
    """Number of cells to add in front, those of shards that lose all patches."""
    after: int
    """Number of cells to add at the end."""


def run_removal(
    out: Path, plan: BuildPlan, index: Index, images: NDArray[np.int64], progress: Progress
) -> Path:
    """Write and publish the version without the images with these numbers, and return the index folder.

    Raises
    ------
    InvalidArgument
        The models of the index do not fit what remains.
    """
    with staging(out, update=True) as folder:
        plan = resume(out, plan, folder)
        if not (out / plan.version).exists():
            version = folder / STAGED / plan.version
            shutil.rmtree(version, ignore_errors=True)  # left by an interrupted removal
            _write(version, plan, index, images, progress)
            index.require_unchanged()
        publish(folder, out, plan.version)
    return out


def _write(
    version: Path, plan: BuildPlan, index: Index, images: NDArray[np.int64], progress: Progress
) -> None:
    """Write the version, its manifest last."""
    parts = _parts(index, images)
    source = IndexImages(index, np.setdiff1d(index.remaining, images))
    number_of = np.full(index.manifest.images, -1, np.int32)
    number_of[source.numbers] = np.arange(len(source), dtype=np.int32)
    version.mkdir(parents=True)
    group = zarr_store.create(version / ARRAYS)
    ingested = ingest(source, len(source), group, progress)
    if index.manifest.patch_depth > 1:
        zarr_store.write(group, DEPTHS, source.depths)
    (version / SOURCES).write_text(json.dumps(ingested.labels))
    for name, array in zarr_store.arrays(zarr_store.open_pinned(index.files, ARRAYS)).items():
        if not name.startswith("images/"):
            zarr_store.write(group, name, np.asarray(array[:]))
    centroids = zarr_store.read_all(group, "cells/centroids")
    counts, files, cell = np.zeros(3, np.int64), dict[str, FileEntry](), 0
    progress("write shards", 0, len(parts))
    for number, part in enumerate(parts):
        folder = version / shards.name_of(number)
        if part.unchanged:
            files |= _link(part.shard, number, version, number_of)
            counts += [part.shard.manifest.keys, part.shard.manifest.distinct, part.shard.manifest.leaves]
            cell += part.shard.manifest.cells
        else:
            end = cell + part.before + part.shard.manifest.cells + part.after
            counts += _write_shard(folder, part, images, number_of, centroids[cell:end])
            cell = end
        progress("write shards", number + 1, len(parts))
    manifest, (keys, distinct, leaves) = index.manifest, counts.tolist()
    removed = manifest.removed + len(images)
    kept = removed <= _CALIBRATED * (len(source) + removed)
    replace(
        manifest,
        lemmse=plan.lemmse,
        sources=plan.base_sources,
        digest=digest_of(ingested, source.depths, index.manifest.patch_depth),
        images=len(source),
        keys=keys,
        distinct=distinct,
        leaves=leaves,
        shards=len(parts),
        removed=removed,
        calibration=manifest.calibration if kept else None,
        pictures=manifest.pictures if kept else None,
        files=dict(sorted((files | other_files(version, files)).items())),
    ).write(version)


def _parts(index: Index, images: NDArray[np.int64]) -> list[_Part]:
    """Return the shards of the new version.

    Raises
    ------
    InvalidArgument
        The models of the index do not fit what remains.
    """
    parts: list[_Part] = []
    empty, keys = 0, 0
    cell_sizes: list[NDArray[np.int64]] = []
    for shard in split_shards(index, index.manifest.shards):
        rest = leave_out(shard, images, refits=False)
        cell_sizes.append(np.diff(rest.cell_keys))
        keys += rest.manifest.keys
        if rest.manifest.keys:
            unchanged = not empty and rest.manifest.keys == shard.manifest.keys
            parts.append(_Part(shard, unchanged, empty, 0))
            empty = 0
        else:
            empty += shard.manifest.cells
    if parts and empty:
        parts[-1] = parts[-1]._replace(unchanged=False, after=empty)
    first = np.concatenate([[0], np.cumsum(np.concatenate(cell_sizes))])
    if keys < max(1, index.manifest.gaussians) or not np.diff(first[index.stratum_cells]).all():
        raise InvalidArgument.of(
            "remove",
            f"expected patches in all strata to remain, and no fewer than there are Gaussians, got "
            f"{len(images)} images without which {keys} patches remain; use --refit",
        )
    return parts


def _link(shard: ShardView, number: int, version: Path, number_of: NDArray[np.int32]) -> dict[str, FileEntry]:
    """Link the files of a shard, write the new numbers of its images, and return the entries of the links."""
    before, ids = shards.name_of(shard.first_shard), f"{shards.ARRAYS}/ids/"
    entries: dict[str, FileEntry] = {}
    for name, entry in shard.manifest.files.items():
        within = name.removeprefix(f"{before}/")
        if within == name or within.startswith(ids):
            continue
        target = version / shards.name_of(number) / within
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_file(shard.folder / name, target)
        entries[f"{shards.name_of(number)}/{within}"] = entry
    group = zarr_store.open_arrays(version / shards.name_of(number) / shards.ARRAYS, writing=True)
    _write_ids(group, shard, number_of)
    return entries


def _link_file(source: Path, target: Path) -> None:
    """Link a file, or copy it if it is small or cannot be linked."""
    if source.stat().st_size > IN_MEMORY:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            pass
        else:
            return
    shutil.copyfile(source, target)


def _write_ids(group: zarr.Group, patches: Index, number_of: NDArray[np.int32]) -> None:
    ids = patches.ids(0, patches.manifest.keys)
    ids[:, 0] = number_of[ids[:, 0]]
    zarr_store.write(group, "ids", ids)


def _write_shard(
    folder: Path,
    part: _Part,
    images: NDArray[np.int64],
    number_of: NDArray[np.int32],
    centroids: NDArray[np.float32],
) -> tuple[int, int, int]:
    """Write what remains of a shard, and return its numbers of patches, distinct keys and leaves."""
    rest = leave_out(part.shard, images, refits=False)
    manifest = rest.manifest
    group = zarr_store.create(folder / shards.ARRAYS)
    sketch = rest.sketch
    for name, packed in (
        ("keys", rest.packed_keys),
        ("moments", rest.packed_moments),
        ("sketches/near", sketch.near),
        ("sketches/more", sketch.more),
    ):
        zarr_store.write_plain(group, name, _runs(packed))
    for name in ("centre", "step", "off"):
        zarr_store.write_plain(group, f"sketches/{name}", getattr(sketch, name))
    zarr_store.write(group, "counts", rest.multiplicity.astype(np.int32))
    zarr_store.write(group, "targets", rest.targets(0, manifest.keys))
    if manifest.augment != "none":
        zarr_store.write(group, "symmetries", rest.symmetries(0, manifest.keys))
    _write_ids(group, rest, number_of)
    cell_keys, cell_leaves = (
        np.pad(edges, (part.before, part.after), "edge") for edges in (rest.cell_keys, rest.cell_leaves)
    )
    zarr_store.write(group, "cells/keys", cell_keys)
    zarr_store.write(group, "cells/leaves", cell_leaves)
    zarr_store.write(group, "leaves/keys", rest.leaf_keys)
    zarr_store.write(group, "leaves/patches", rest.leaf_patches)
    write_groups(group, rest.leaf_groups(), rest.cell_moments())
    q = rest.packed_keys.rows(0, manifest.distinct)
    write_neighbours(folder / shards.NEIGHBOURS, q, cell_keys, centroids, rest.quantization)
    return manifest.keys, manifest.distinct, manifest.leaves


def _runs(packed: Packed) -> NDArray[np.generic]:
    """Return rows that are packed as one part in the shape in which they are stored."""
    return packed.values.reshape(-1, packed.length, LANES)
