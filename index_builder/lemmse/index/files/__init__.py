"""Files of images: what their numbers mean, and reading and writing them plane by plane.

    scale          how numbers encode intensities
    layout         axes, and the planes that they divide a file into
    stack          an opened file
    pictures       PNG, JPEG and others, by Pillow
    tiff           TIFF, ImageJ and OME-TIFF, by tifffile
    arrays, zarrs  NumPy files, Zarr and OME-Zarr
    output         writing, complete or not at all
    outputs        writing in the format of a suffix; mapped_outputs: where parts are written in any order
    walk           the files of a folder

Builder and client read files by the same rules, which docs/files.md states.
"""

from lemmse.index.files.layout import Layout
from lemmse.index.files.limits import check_size
from lemmse.index.files.open import IMAGES, READ, open_stack, read_map, read_mask
from lemmse.index.files.output import Output
from lemmse.index.files.outputs import WRITTEN, create_output
from lemmse.index.files.readable import readable
from lemmse.index.files.scale import ROUNDING, Scale, divisor_hint
from lemmse.index.files.stack import Metadata, Plane, Stack
from lemmse.index.files.walk import Found, find_files

__all__ = [
    "IMAGES",
    "READ",
    "ROUNDING",
    "WRITTEN",
    "Found",
    "Layout",
    "Metadata",
    "Output",
    "Plane",
    "Scale",
    "Stack",
    "check_size",
    "create_output",
    "divisor_hint",
    "find_files",
    "open_stack",
    "read_map",
    "read_mask",
    "readable",
]
