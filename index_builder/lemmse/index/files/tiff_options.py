"""The arguments with which tifffile writes an image and what its input said about it."""

import importlib.util
from math import prod
from typing import Any

from lemmse.index.files.layout import Layout
from lemmse.index.files.scale import Scale
from lemmse.index.files.stack import Metadata

__all__ = ["tiff_options"]

_DERIVED = ("ImageJ", "images", "channels", "slices", "frames", "hyperstack")
"""What ImageJ's metadata says about the shape."""
_OF_NUMBERS = ("min", "max", "Ranges")
"""What it says about the range of the numbers on display."""
_IMAGEJ_TYPES = {"uint8", "uint16", "float32"}
_LOSSLESS = {5: "lzw", 8: "zlib", 32946: "zlib", 32773: "packbits", 34925: "lzma", 50000: "zstd"}
"""Compressions that outputs keep; those of the name zlib need no other package."""
_IMAGEJ_BYTES = 0xF0000000
"""Size above which ImageJ describes only the first image of a stack."""


def tiff_options(layout: Layout, scale: Scale, metadata: Metadata) -> dict[str, Any]:
    """Return the keyword arguments of `tifffile.imwrite`.

    Parameters
    ----------
    layout, scale
        Axes and element type of the output.
    metadata : Metadata
        What the input said; it is kept where the element type and the axes allow it.
    """
    colours = layout.axes.endswith("S")
    size = prod(layout.shape) * scale.dtype.itemsize
    options: dict[str, Any] = {
        "photometric": "rgb" if colours and layout.channels == 3 else "minisblack",
        "planarconfig": "contig" if colours else None,  # otherwise each row would become a page
        "compression": _compression(metadata.compression),
        "iccprofile": metadata.icc,
        "extratags": metadata.tags,
        "imagej": False,
        "ome": False,
        "metadata": {"axes": layout.axes},
    }
    if scale.bits != 8 * scale.dtype.itemsize and scale.dtype.kind == "u":
        options["bitspersample"] = scale.bits
    if metadata.resolution is not None:
        options |= {"resolution": metadata.resolution, "resolutionunit": metadata.unit}
    if metadata.kind == "imagej" and scale.dtype.name in _IMAGEJ_TYPES and _is_imagej(layout, scale):
        kept = {key: value for key, value in metadata.details.items() if key not in _DERIVED + _OF_NUMBERS}
        options |= {"imagej": True, "metadata": {"axes": layout.axes, **kept}, "compression": None}
        options["truncate"] = size > _IMAGEJ_BYTES
    elif metadata.kind == "ome":
        options |= {"ome": True, "metadata": {"axes": layout.axes, **metadata.details}}
    elif text := metadata.texts.get("Description"):
        # tifffile's own description of the axes would take its place.
        options |= {"description": text, "metadata": None}
    return options


def _compression(number: int) -> str | None:
    name = _LOSSLESS.get(number)
    if name not in (None, "zlib") and importlib.util.find_spec("imagecodecs") is None:
        return "zlib"
    return name


def _is_imagej(layout: Layout, scale: Scale) -> bool:
    """Return whether ImageJ has such an image: axes TZCYXS, RGB of 8 bits only."""
    order = [("TZCYXS").find(letter) for letter in layout.axes]
    rgb_fits = "S" not in layout.axes or (layout.channels in (3, 4) and scale.dtype.name == "uint8")
    return -1 not in order and order == sorted(order) and rgb_fits
