"""The training patches and images of keys, for explanations."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import DataLoss
from lemmse.contract.results import Contributor
from lemmse.estimator.cancellation import Cancel, raise_if_cancelled
from lemmse.index import Index
from lemmse.index.images.stack import inside
from lemmse.index.images.symmetries import SYMMETRIES, origin
from lemmse.index.ranges import row_slices
from lemmse.index.storage.manifest import REMEDY

__all__ = ["contributors", "heaviest_images"]

T = TypeVar("T", bound=np.generic)

_BLOCK = 128
"""Number of rows that are read between two polls; each may need a chunk of its own."""


def contributors(
    index: Index,
    keys: NDArray[np.int64],
    weights: NDArray[np.float32],
    most: int,
    context: int | None,
    cancelled: Cancel,
) -> Iterator[Contributor]:
    """Yield the training patches that equal keys, at most `most`, in the order of the keys.

    Parameters
    ----------
    index : Index
        The index.
    keys : int, (K,)
        Numbers of distinct keys; -1 for none.
    weights : float, (K,)
        The posterior weight of each training patch that equals a key.
    most : int
        Largest number of training patches.
    context : int or None
        Pixels around the patch that its crop shows on each side; None for no crops.
    cancelled : callable
        Polled between reads.

    Raises
    ------
    Cancelled
        `cancelled()` was true.
    DataLoss
        The index is damaged.
    """
    labels = index.labels
    keys, weights = keys[keys >= 0], weights[keys >= 0]
    ranges = _in_order(index.patch_ranges, keys, cancelled)  # (K, 2)
    sizes = np.minimum(ranges[:, 1] - ranges[:, 0], most)
    ends = np.minimum(sizes.cumsum(), most)
    counts = np.diff(ends, prepend=0)
    patches = np.arange(counts.sum()) + np.repeat(ranges[:, 0] - (ends - counts), counts)  # (N,)
    symmetries = _in_order(index.symmetries_of, patches, cancelled)
    if symmetries.max(initial=0) >= len(SYMMETRIES):
        raise DataLoss(f"a patch is of symmetry {symmetries.max()}, which does not exist; {REMEDY}")
    ids = _in_order(index.ids_of, patches, cancelled)  # (N, 3)
    values = _in_order(index.pixels, index.pixel_numbers(ids), cancelled)  # (N, C)
    found = (ids.tolist(), np.repeat(weights, counts).tolist(), values.tolist(), symmetries.tolist())
    for (image, row, column), weight, value, symmetry in zip(*found, strict=True):
        crop = None
        if context is not None:
            raise_if_cancelled(cancelled)
            crop = _crop(index, (image, row, column), symmetry, context)
        yield Contributor(image, labels[image], row, column, weight, tuple(value), SYMMETRIES[symmetry], crop)


def _crop(index: Index, patch: tuple[int, int, int], symmetry: int, context: int) -> NDArray[np.float32]:
    """Return a training patch with its surroundings, in intensities, (p + 2 context, p + 2 context, C).

    The patch is given by its image, and the row and column of its centre in it.
    """
    image, row, column = patch
    p, boundary = index.manifest.patch_size, index.manifest.boundary
    offset = np.arange(p + 2 * context) - (p // 2 + context)
    down, right = (axis.ravel() for axis in np.meshgrid(offset, offset, indexing="ij"))
    # In an image of one pixel, at (0, 0), a symmetry turns offsets as it turns those in any other.
    down, right = origin(np.array([symmetry]), down, right, np.ones((1, 2), np.int64))
    height, width = index.sizes[image]
    rows, columns = inside(row + down, height, boundary), inside(column + right, width, boundary)
    ids = np.stack([np.full_like(rows, image), rows, columns], axis=1)
    return index.pixels(index.pixel_numbers(ids)).reshape(len(offset), len(offset), -1)


def heaviest_images(index: Index, keys: NDArray[np.int64], cancelled: Cancel) -> NDArray[np.int64]:
    """Return the number of a training image for each key, (K,): the first one with a patch that equals it.

    Parameters
    ----------
    index : Index
        The index.
    keys : int, (K,)
        Numbers of keys; -1 for none, which is of image -1.
    cancelled : callable
        Polled between reads.

    Raises
    ------
    Cancelled
        `cancelled()` was true.
    DataLoss
        The index is damaged.
    """
    distinct, rows = np.unique(keys, return_inverse=True)
    images = np.full(len(distinct), -1)
    known = distinct >= 0
    patches = _in_order(index.patch_ranges, distinct[known], cancelled)[:, 0]
    images[known] = _in_order(index.ids_of, patches, cancelled)[:, 0]
    return images[rows]


def _in_order(
    read: Callable[[NDArray[np.int64]], NDArray[T]], numbers: NDArray[np.int64], cancelled: Cancel
) -> NDArray[T]:
    """Return what is read for numbers, in ascending order, so that few chunks are read twice."""
    order = np.argsort(numbers)
    parts = [read(numbers[order[:0]])]
    for block in row_slices(len(order), _BLOCK):
        raise_if_cancelled(cancelled)
        parts.append(read(numbers[order[block]]))
    return np.concatenate(parts)[np.argsort(order)]
