"""Where training images come from: one protocol, one module for each kind of source.

`open_source` picks the kind from what it is given; `concatenate` joins several sources into one; `iterate`
reads a source once, holding every image to the first one's channels; `intensities` scales to [0, 1].
"""

from lemmse.index.sources._image import Image, ImageSource, intensities
from lemmse.index.sources._open import open_source
from lemmse.index.sources._photos import HELD_OUT, photograph
from lemmse.index.sources._sequence import concatenate, iterate

__all__ = [
    "HELD_OUT",
    "Image",
    "ImageSource",
    "concatenate",
    "intensities",
    "iterate",
    "open_source",
    "photograph",
]
