"""The training images of an index, as a source of images."""

from dataclasses import dataclass

from lemmse.index.reading.index import Index
from lemmse.index.sources import Image

__all__ = ["IndexImages"]


@dataclass(frozen=True)
class IndexImages:
    """The training images that an index holds, with the labels that they had."""

    index: Index

    @property
    def spec(self) -> str:
        """The index folder."""
        return str(self.index.folder)

    def __len__(self) -> int:
        """Count the images."""
        return self.index.manifest.images

    def __getitem__(self, k: int) -> Image:
        """Read image k."""
        return self.index.image(range(len(self))[k])

    def label(self, k: int) -> str:
        """Tell where image k came from."""
        return self.index.labels[k]
