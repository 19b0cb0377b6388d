"""Sources of training images: a protocol, and one module for each kind of source.

`open_source` determines the kind and opens the source, which is read as a `Reading` states; `concatenate`
joins sources; `iterate` reads a source once, and requires all images to have the same number of channels;
`intensities` scales images to [0, 1].
"""

from lemmse.index.sources._image import Image, ImageSource, intensities
from lemmse.index.sources._open import open_source
from lemmse.index.sources._photos import HELD_OUT, photograph
from lemmse.index.sources._reading import Reading, Region
from lemmse.index.sources._sequence import concatenate, iterate

__all__ = [
    "HELD_OUT",
    "Image",
    "ImageSource",
    "Reading",
    "Region",
    "concatenate",
    "intensities",
    "iterate",
    "open_source",
    "photograph",
]
