"""Concatenation of sources, and iteration over images with the same number of channels."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from lemmse.index.sources._image import Image, ImageSource, bad_source
from lemmse.index.sources._volumes import depths_of

__all__ = ["concatenate", "iterate"]


class _Concatenation:
    """The concatenation of several sources."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.spec = " ".join(source.spec for source in sources)
        self._sources = sources
        self.depths: NDArray[np.int64] = np.concatenate([depths_of(source) for source in sources])
        self._starts = list(accumulate((len(source) for source in sources), initial=0))

    def __len__(self) -> int:
        """Return the total number of images."""
        return self._starts[-1]

    def __getitem__(self, k: int) -> Image:
        """Return image k, decoded."""
        source, k = self._find(k)
        return source[k]

    def label(self, k: int) -> str:
        """Return the origin of image k."""
        source, k = self._find(k)
        return source.label(k)

    def _find(self, k: int) -> tuple[ImageSource, int]:
        k = range(len(self))[k]
        number = bisect_right(self._starts, k) - 1
        return self._sources[number], k - self._starts[number]


def concatenate(sources: Sequence[ImageSource]) -> ImageSource:
    """Return the concatenation of several sources, in order.

    The first image of each source is decoded to compare the numbers of channels, before all images are read.

    Parameters
    ----------
    sources : sequence of ImageSource
        The sources, at least one.

    Returns
    -------
    ImageSource

    Raises
    ------
    InvalidArgument
        The sequence is empty, or greyscale and colour are mixed.

    Examples
    --------
    >>> from lemmse.index.sources import open_source
    >>> photos = open_source("sample:photos")
    >>> len(concatenate([photos, photos])) == 2 * len(photos)
    True
    """
    if not sources:
        raise bad_source("expected at least one source of images, got none")
    joined = _Concatenation(sources)
    for _ in _matching(joined, joined._starts[:-1]):
        pass
    return joined


def iterate(source: ImageSource) -> Iterator[tuple[Image, str]]:
    """Yield the images of a source in order; all must have the same number of channels.

    Parameters
    ----------
    source : ImageSource
        The images.

    Yields
    ------
    image : ndarray, uint8, uint16 or float32, (H, W, C)
        The image; C is the same for all images.
    label : str
        Its origin.

    Raises
    ------
    InvalidArgument
        A file is not an image, or greyscale and colour are mixed.
    """
    return _matching(source, range(len(source)))


def _matching(source: ImageSource, numbers: Sequence[int]) -> Iterator[tuple[Image, str]]:
    """Yield the images with these numbers; raise at the first with a different number of channels."""
    first, channels = "", 0
    for k in numbers:
        image, label = source[k], source.label(k)
        first, channels = first or label, channels or image.shape[2]
        if image.shape[2] != channels:
            raise bad_source(
                f"expected images with one number of channels, got {channels} in {first} and "
                f"{image.shape[2]} in {label} (mixed greyscale and colour); convert or separate them"
            )
        yield image, label
