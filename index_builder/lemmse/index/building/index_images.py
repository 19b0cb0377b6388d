"""The training images of an index as an image source."""

from dataclasses import dataclass

from lemmse.index.reading import Index
from lemmse.index.sources import Image

__all__ = ["IndexImages"]


@dataclass(frozen=True)
class IndexImages:
    """An image source of the training images of an index, with their labels."""

    index: Index

    @property
    def spec(self) -> str:
        """The index folder."""
        return str(self.index.folder)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.index.manifest.images

    def __getitem__(self, k: int) -> Image:
        """Read image k."""
        return self.index.image(range(len(self))[k])

    def label(self, k: int) -> str:
        """Return the origin of image k."""
        return self.index.labels[k]
