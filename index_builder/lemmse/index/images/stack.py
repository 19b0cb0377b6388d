"""A stack of images of any size, and the extraction of patches from it.

The pixels of all images are stored in one array, so that a position in the stack is one number, and patches
are extracted by indexing. The same code extracts patches of training images and of images to reconstruct.

A patch of side p at row r covers rows r − ⌊p/2⌋ … r − ⌊p/2⌋ + p − 1, and likewise for columns: for even p,
the centre is the pixel below and to the right of the middle of the patch. Where images are the planes of
volumes, a patch has the same rows and columns in each of p_z planes; see `lemmse.index.images.volumes`. It is
flattened in the order plane, row, column, channel, to length P = p_z·p²·C, and may be larger than its image.
Outside the image,

    circular   the image is repeated periodically, as in the paper
    reflect    the image is mirrored about its border pixels; the noise in pixels that are read twice is
               treated as independent
    valid      like reflect for the image to reconstruct; training patches lie inside their image
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["BOUNDARIES", "Images", "centres", "inside"]

BOUNDARIES = ("circular", "reflect", "valid")

Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True)
class Images(Generic[Pixel]):
    """A stack of images.

    Examples
    --------
    >>> stack = Images.stack([np.arange(6.0).reshape(2, 3, 1)])
    >>> stack.patches(np.array([0]), 3).astype(int)     # the patch around the first pixel
    array([[5, 3, 4, 2, 0, 1, 5, 3, 4]])
    """

    pixels: NDArray[Pixel]
    """The pixels of all images, row by row, (N, C)."""
    sizes: NDArray[np.int64]
    """Height and width of each image in pixels, (K, 2)."""
    planes: NDArray[np.int64] | None = None
    """Numbers of the images in which a patch centred in an image lies, (n, p_z), for the first n ≤ K images;
    None if a patch lies in one image. These images have one size."""

    @classmethod
    def stack(
        cls, images: Iterable[NDArray[Pixel]], planes: NDArray[np.int64] | None = None
    ) -> "Images[Pixel]":
        """Return the stack of images, (H, W, C), which have the same C and dtype."""
        parts = list(images)
        return cls(
            pixels=np.concatenate([x.reshape(-1, x.shape[-1]) for x in parts]),
            sizes=np.array([x.shape[:2] for x in parts], np.int64),
            planes=planes,
        )

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """First position of each image, followed by the number of positions, (K + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes.prod(axis=1))])

    @property
    def positions(self) -> int:
        """Number of positions, N."""
        return len(self.pixels)

    def __len__(self) -> int:
        """Return the number of images, K."""
        return len(self.sizes)

    def __getitem__(self, k: int) -> NDArray[Pixel]:
        """Return image k, (H, W, C)."""
        start, stop = self.first[k : k + 2]
        return self.pixels[start:stop].reshape(*self.sizes[k], -1)

    def locate(self, n: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return image, row and column of positions n, int32, (len(n), 3)."""
        first = self.first
        k = np.searchsorted(first, n, side="right") - 1
        row, column = np.divmod(n - first[k], self.sizes[k, 1])
        return np.stack([k, row, column], axis=1).astype(np.int32)

    def patches(self, n: NDArray[np.integer], p: int, boundary: str = "circular") -> NDArray[Pixel]:
        """Return the patches of side p centred at positions n, in the dtype of the pixels, (len(n), P)."""
        first = self.first
        k, row, column = self.locate(n).T.astype(np.int64)
        offsets = np.arange(p) - p // 2
        rows = inside(row[:, None] + offsets, self.sizes[k, :1], boundary)
        columns = inside(column[:, None] + offsets, self.sizes[k, 1:], boundary)
        within = (rows * self.sizes[k, 1:])[:, :, None] + columns[:, None, :]  # (n, p, p)
        planes = k[:, None] if self.planes is None else self.planes[k]  # (n, p_z)
        index = first[planes][:, :, None, None] + within[:, None]
        cut: NDArray[Pixel] = self.pixels[index].reshape(len(n), -1)
        return cut


def centres(
    height: int, width: int, p: int, boundary: str = "circular", stride: int = 1
) -> NDArray[np.int64]:
    """Return the positions in an image on which training patches of side p are centred, ascending, int64.

    They are in every `stride`-th of the rows and columns that have centres, from the first.

    Examples
    --------
    >>> centres(3, 4, 3, "valid")
    array([5, 6])
    >>> centres(3, 4, 3, stride=2)
    array([ 0,  2,  8, 10])
    """
    border, outside = (p // 2, p - 1) if boundary == "valid" else (0, 0)
    row, column = (border + np.arange(0, length - outside, stride) for length in (height, width))
    return (row[:, None] * width + column).ravel()


def inside(i: NDArray[np.int64], size: NDArray[np.int64], boundary: str) -> NDArray[np.int64]:
    """Return the positions that are read for positions i, which may be outside 0 … size − 1.

    Examples
    --------
    >>> inside(np.arange(-2, 5), np.array(3), "circular"), inside(np.arange(-2, 5), np.array(3), "reflect")
    (array([1, 2, 0, 1, 2, 0, 1]), array([2, 1, 0, 1, 2, 1, 0]))
    """
    return _wrapped(i, size) if boundary == "circular" else _mirrored(i, size)


def _wrapped(i: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.int64]:
    return i % size


def _mirrored(i: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.int64]:
    period = np.maximum(2 * (size - 1), 1)
    return np.minimum(i % period, period - i % period)
