"""The patches of an image, cut on the device of the keys."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.index.images.stack import Pixel, inside

__all__ = ["ImagePatches"]


class ImagePatches:
    """The patches of an image or a volume, which is copied to a device once.

    They are those of `lemmse.index.images.stack.Images`.

    Parameters
    ----------
    image : array, (D, H, W, C)
        The planes of a volume; an image is one plane.
    sides : (int, int, int)
        Planes, rows and columns of a patch.
    boundary : str
        What is read outside the image, see `lemmse.index.images.stack`.
    device : torch.device
        Where to cut.

    Examples
    --------
    >>> image = np.arange(6.0).reshape(1, 2, 3, 1)
    >>> patches = ImagePatches(image, (1, 3, 3), "circular", torch.device("cpu"))
    >>> patches.at(np.array([0])).int().tolist()
    [[5, 3, 4, 2, 0, 1, 5, 3, 4]]
    >>> patches.centres(np.array([4])).tolist()
    [[4.0]]
    """

    def __init__(
        self, image: NDArray[Pixel], sides: tuple[int, int, int], boundary: str, device: torch.device
    ) -> None:
        self._shape, self._sides = image.shape[:3], sides
        read = [
            inside(np.arange(length + side - 1) - side // 2, np.array(length), boundary)
            for length, side in zip(self._shape, sides, strict=True)
        ]
        padded = torch.from_numpy(image[np.ix_(*read)]).to(device)
        for axis, side in enumerate(sides):
            padded = padded.unfold(axis, side, 1)
        self._windows = padded.permute(0, 1, 2, 4, 5, 6, 3)  # (D, H, W, p_z, p, p, C), a view

    def at(self, n: NDArray[np.int64]) -> Tensor:
        """Return the patches at positions n, in the order plane, row, column, (len(n), P)."""
        return self._windows[self._place(n)].reshape(len(n), -1)

    def centres(self, n: NDArray[np.int64]) -> Tensor:
        """Return the pixels at positions n, (len(n), C)."""
        plane, row, column = (side // 2 for side in self._sides)
        return self._windows[:, :, :, plane, row, column][self._place(n)]

    def _place(self, n: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Return plane, row and column of positions n."""
        _, height, width = self._shape
        position = torch.from_numpy(n).to(self._windows.device)
        row = position // width
        return row // height, row % height, position % width
