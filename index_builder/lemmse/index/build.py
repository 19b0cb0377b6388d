"""Build an index: read the images, group their patches into cells, write everything in cell order.

Patches are cut when they are needed, in each pass anew, so the builder holds the images and one shard of
keys at a time, beside the FAISS index that it fills.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from lemmse.index import cells, store
from lemmse.index.errors import InvalidArgument
from lemmse.index.folder import ARRAYS, NEIGHBOURS, SOURCES, publishing
from lemmse.index.images import BOUNDARIES, Images
from lemmse.index.manifest import FORMAT, Manifest, checksum
from lemmse.index.physics import InverseProblem
from lemmse.index.sources import concatenate, intensities, iterate, open_source

__all__ = ["Progress", "build"]

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
        Side p of the patches, >= 1, odd or even; see `lemmse.index.images` for the centre.
    physics, pre_inverse : str
        Specifications of A and B, see `lemmse.index.physics`.
    boundary : str
        How positions outside an image are read.
    limit : int, optional
        Use only the first `limit` images.
    seed : int
        Seed of the clustering; the same arguments and seed give the same index.
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
    problem = InverseProblem(physics, pre_inverse)
    _require_at_least("patch-size", patch_size, 1)
    if limit is not None:
        _require_at_least("limit", limit, 1)
    _require_at_least("seed", seed, 0)
    if boundary not in BOUNDARIES:
        raise InvalidArgument("boundary", f"expected one of {', '.join(BOUNDARIES)}, got {boundary!r}")
    out = Path(os.path.abspath(out))
    with publishing(out) as folder:
        images, labels = _read(sources, limit, progress)
        clean = Images(intensities(images.pixels[None])[0], images.sizes)
        measured = Images.stack(problem.pre_invert(problem.measure(clean[k])) for k in range(len(clean)))
        index, cell = _assign(measured, patch_size, seed, progress)
        _write(folder, images, clean, measured, patch_size, index, cell, progress)
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
            patch_size=patch_size,
            keys=images.positions,
            cells=index.nlist,
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


def _assign(
    measured: Images[np.float32], p: int, seed: int, progress: Progress
) -> tuple[faiss.IndexIVFFlat, NDArray[np.int32]]:
    """An empty index with fitted cells, and the cell of each key, shape (M,)."""
    keys = measured.positions
    count = cells.cell_count(keys)
    sample = np.random.default_rng(seed).permutation(keys)[: count * cells.SAMPLE_PER_CELL]
    progress("fit cells", 0, 1)
    index = cells.train(measured.patches(np.sort(sample), p), count, seed)
    progress("fit cells", 1, 1)
    cell = np.empty(keys, np.int32)
    for start, stop in _ranges(keys, store.CHUNK):
        v = measured.patches(np.arange(start, stop), p)
        cell[start:stop] = index.quantizer.search(v, 1)[1][:, 0]
        progress("assign keys", stop, keys)
    return index, cell


def _write(
    folder: Path,
    images: Images[Any],
    clean: Images[np.float32],
    measured: Images[np.float32],
    p: int,
    index: faiss.IndexIVFFlat,
    cell: NDArray[np.int32],
    progress: Progress,
) -> None:
    """Write the arrays in cell order, and fill the FAISS index with the same keys."""
    keys, channels = clean.pixels.shape
    order = np.argsort(cell, kind="stable")
    group = store.create(folder / ARRAYS)
    store.create_array(group, "images/pixels", images.pixels.shape, images.pixels.dtype)[:] = images.pixels
    store.create_array(group, "images/sizes", images.sizes.shape, images.sizes.dtype)[:] = images.sizes
    offsets = np.searchsorted(cell[order], np.arange(index.nlist + 1))
    store.create_array(group, "cells", offsets.shape, np.int64)[:] = offsets
    arrays = {
        "keys": store.create_array(group, "keys", (keys, index.d), np.float32),
        "targets": store.create_array(group, "targets", (keys, channels), np.float32),
        "ids": store.create_array(group, "ids", (keys, 3), np.int32),
    }
    for start, stop in _ranges(keys, store.SHARD):
        n = order[start:stop]
        v = measured.patches(n, p)
        arrays["keys"][start:stop] = v
        arrays["targets"][start:stop] = clean.pixels[n]
        arrays["ids"][start:stop] = clean.locate(n)
        cells.add(index, v, start, cell[n])
        progress("write keys", stop, keys)
    faiss.write_index(index, str(folder / NEIGHBOURS))


def _ranges(total: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, total)) for start in range(0, total, step))


def _digest(images: Images[Any]) -> str:
    digest = hashlib.sha256(images.pixels.dtype.name.encode())
    digest.update(images.sizes.tobytes())
    digest.update(np.ascontiguousarray(images.pixels).tobytes())
    return digest.hexdigest()


def _require_at_least(argument: str, value: int, least: int) -> None:
    if value < least:
        raise InvalidArgument(argument, f"expected a whole number >= {least}, got {value}")
