"""The training images of an index, by size, as MMSE and E-MMSE compare them with a measurement."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.exclusions import excluded_images
from lemmse.estimator.whole_images import WholeImages
from lemmse.index import Index
from lemmse.index.sources import intensities

__all__ = ["TrainingImages"]


class TrainingImages:
    """The training images of an index. Those of a size are read when they are first compared, and kept.

    Parameters
    ----------
    index : Index
        The index.
    device : torch.device
        Device on which to compare.
    """

    def __init__(self, index: Index, device: torch.device) -> None:
        self._index, self._device = index, device
        self._of_size: dict[tuple[int, int], tuple[NDArray[np.int64], WholeImages]] = {}

    def without(self, names: Sequence[str]) -> tuple[WholeImages, NDArray[np.int64]]:
        """Return training images, and which of them count: all of the index but those that names stand for.

        Raises
        ------
        InvalidArgument
            They are planes of volumes, or not of one size; or a name stands for no image.
        """
        index = self._index
        if index.manifest.axes == 3:
            raise InvalidArgument.of("estimator", "expected le-mmse for an index of volumes")
        numbers = np.setdiff1d(np.arange(len(index.sizes)), excluded_images(index, names))
        height, width = index.sizes[numbers[0]].tolist()
        if (index.sizes[numbers] != (height, width)).any():
            raise InvalidArgument.of(
                "estimator", "expected an index of images of one size for mmse and e-mmse, got several sizes"
            )
        if (height, width) not in self._of_size:
            self._of_size[height, width] = self._read(height, width)
        alike, whole = self._of_size[height, width]
        return whole, np.searchsorted(alike, numbers)

    def _read(self, height: int, width: int) -> tuple[NDArray[np.int64], WholeImages]:
        """Return the numbers of all images of a size, and the images."""
        problem, images = self._index.problem, self._index.images()
        alike = np.flatnonzero((self._index.sizes == (height, width)).all(axis=1))
        clean = np.stack([intensities(images[k]) for k in alike.tolist()])
        measured = clean if problem.physics == "identity" else np.stack([problem.measure(x) for x in clean])
        scale = None if problem.stationary else problem.scale(clean[0].shape)
        return alike, WholeImages(clean, measured, self._device, scale=scale)
