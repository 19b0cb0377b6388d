"""Ingest training images: read every source once, check the images, and store the pixels."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index.callbacks import Progress
from lemmse.index.sources import Image, ImageSource, intensities, iterate
from lemmse.index.storage import zarr_store

__all__ = ["Ingested", "ingest"]

_FLOAT = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Ingested:
    """A summary of ingested images."""

    dtype: str
    """Element type of the stored images: that of the source, or float32 if there are several."""
    channels: int
    digest: str
    """SHA-256 of dtype, pixels and sizes, in hexadecimal."""
    sizes: NDArray[np.int64]
    """Heights and widths of the images, (K, 2)."""
    labels: list[str]
    """Origin of each image."""
    duplicates: int
    """Number of images that equal an earlier one."""
    equal: tuple[str, str] | None
    """Origins of the first two equal images."""


def ingest(source: ImageSource, count: int, group: zarr.Group | None, progress: Progress) -> Ingested:
    """Read the first `count` images, one at a time; store them in `group`, if given; return a summary."""
    first = source[0].dtype
    try:
        return _ingest(source, count, first, group, progress)
    except _MixedTypes:
        return _ingest(source, count, _FLOAT, group, progress)


class _MixedTypes(Exception):
    """The images have several element types."""


def _ingest(
    source: ImageSource, count: int, dtype: "np.dtype[Any]", group: zarr.Group | None, progress: Progress
) -> Ingested:
    digest = hashlib.sha256(dtype.name.encode())
    shapes: list[tuple[int, int, int]] = []
    labels: list[str] = []
    seen: dict[bytes, int] = {}  # the first image of each content
    equal: tuple[str, str] | None = None

    def pixels() -> Iterator[Image]:
        nonlocal equal
        progress("read images", 0, count)
        for image, label in islice(iterate(source), count):
            if image.dtype != dtype:
                if dtype != _FLOAT:
                    raise _MixedTypes
                image = intensities(image)
            rows = np.ascontiguousarray(image).reshape(-1, image.shape[2])
            content = rows.tobytes()
            digest.update(content)
            own = hashlib.blake2b(content, digest_size=16, person=b"%d" % image.shape[1]).digest()
            first = seen.setdefault(own, len(labels))
            if equal is None and first < len(labels):
                equal = labels[first], label
            shapes.append(image.shape)
            labels.append(label)
            progress("read images", len(labels), count)
            yield rows

    if group is None:
        for _ in pixels():
            pass
    else:
        zarr_store.write_blocks(group, "images/pixels", pixels())
    sizes = np.array([shape[:2] for shape in shapes], np.int64)
    if group is not None:
        zarr_store.write(group, "images/sizes", sizes)
    digest.update(sizes.tobytes())
    duplicates = len(labels) - len(seen)
    return Ingested(dtype.name, shapes[0][2], digest.hexdigest(), sizes, labels, duplicates, equal)
