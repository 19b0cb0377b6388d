"""Several sources read as one, and every image of them held to the first one's channels."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from lemmse.index.sources._image import Image, ImageSource, bad_source

__all__ = ["concatenate", "iterate"]


class _Concatenation:
    """Sources one after the other."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.spec = " ".join(source.spec for source in sources)
        self._sources = sources
        self._starts = list(accumulate((len(source) for source in sources), initial=0))

    def __len__(self) -> int:
        """Count the images of all sources."""
        return self._starts[-1]

    def __getitem__(self, k: int) -> Image:
        """Decode image k."""
        source, k = self._find(k)
        return source[k]

    def label(self, k: int) -> str:
        """Tell where image k came from."""
        source, k = self._find(k)
        return source.label(k)

    def _find(self, k: int) -> tuple[ImageSource, int]:
        k = range(len(self))[k]
        number = bisect_right(self._starts, k) - 1
        return self._sources[number], k - self._starts[number]


def concatenate(sources: Sequence[ImageSource]) -> ImageSource:
    """Join sources, one after the other.

    The first image of each is decoded and compared, so that a source that does not belong is found before
    the others are read.

    Parameters
    ----------
    sources : sequence of ImageSource
        At least one.

    Returns
    -------
    ImageSource

    Raises
    ------
    InvalidArgument
        There is no source, or greyscale and colour are mixed.

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
    """Read a source once, in order, and hold every image to the first one's channels.

    Parameters
    ----------
    source : ImageSource
        The images.

    Yields
    ------
    image : ndarray, shape (H, W, C), uint8, uint16 or float32
        The image; C is the same for all.
    label : str
        Where it came from.

    Raises
    ------
    InvalidArgument
        A file does not hold an image, or greyscale and colour are mixed.
    """
    return _matching(source, range(len(source)))


def _matching(source: ImageSource, numbers: Sequence[int]) -> Iterator[tuple[Image, str]]:
    """Images by number; raises at the first whose channels differ from those of the first."""
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
