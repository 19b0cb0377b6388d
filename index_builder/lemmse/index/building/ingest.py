"""Take the training images in: read every source once, check it, and store the pixels."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index.progress import Progress
from lemmse.index.sources import Image, ImageSource, intensities, iterate
from lemmse.index.storage import zarr_store

__all__ = ["Ingested", "ingest"]

FLOAT = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What was read."""

    dtype: str
    """Element type of the stored images; that of the source, or float32 where several were mixed."""
    channels: int
    digest: str
    """SHA-256 over dtype, pixels and sizes."""
    sizes: NDArray[np.int64]
    """Heights and widths, (K, 2)."""
    labels: list[str]
    """Where each image came from."""


def ingest(source: ImageSource, count: int, group: zarr.Group | None, progress: Progress) -> Ingested:
    """Read the first `count` images, one at a time, and store them in a group, if there is one."""
    first = source[0].dtype
    try:
        return _ingest(source, count, first, group, progress)
    except _SeveralTypes:
        return _ingest(source, count, FLOAT, group, progress)


class _SeveralTypes(Exception):
    """The images are not all of one type."""


def _ingest(
    source: ImageSource, count: int, dtype: "np.dtype[Any]", group: zarr.Group | None, progress: Progress
) -> Ingested:
    digest = hashlib.sha256(dtype.name.encode())
    shapes: list[tuple[int, int, int]] = []
    labels: list[str] = []

    def pixels() -> Iterator[Image]:
        progress("read images", 0, count)
        for image, label in islice(iterate(source), count):
            if image.dtype != dtype:
                if dtype != FLOAT:
                    raise _SeveralTypes
                image = intensities(image)
            rows = np.ascontiguousarray(image).reshape(-1, image.shape[2])
            digest.update(rows.tobytes())
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
    return Ingested(dtype.name, shapes[0][2], digest.hexdigest(), sizes, labels)
