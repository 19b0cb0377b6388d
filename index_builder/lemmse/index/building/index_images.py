"""Training images of an index as an image source."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.index.reading import Index
from lemmse.index.sources import Image

__all__ = ["IndexImages"]


@dataclass(frozen=True)
class IndexImages:
    """An image source of some training images of an index, with their labels."""

    index: Index
    numbers: NDArray[np.int64]
    """Numbers of the images."""

    @property
    def spec(self) -> str:
        """The index folder."""
        return str(self.index.folder)

    @property
    def depths(self) -> NDArray[np.int64]:
        """Number of planes of each volume, of which the images are the planes."""
        volumes = np.repeat(np.arange(len(self.index.depths)), self.index.depths)
        return np.unique(volumes[self.numbers], return_counts=True)[1]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.numbers)

    def __getitem__(self, k: int) -> Image:
        """Read image k."""
        return self.index.image(int(self.numbers[k]))

    def label(self, k: int) -> str:
        """Return the origin of image k."""
        return self.index.labels[int(self.numbers[k])]
