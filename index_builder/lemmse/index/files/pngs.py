"""Write PNG with the resolution, colour profile, EXIF and texts of the input."""

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
from numpy.typing import NDArray

from lemmse.index.files.codecs import require_imagecodecs
from lemmse.index.files.stack import Metadata

__all__ = ["write_png"]

_PER_INCH = {2: 1.0, 3: 2.54}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_png(file: BinaryIO, numbers: NDArray[Any], metadata: Metadata) -> None:
    """Write a picture.

    Parameters
    ----------
    file : binary file
        Where to write.
    numbers : ndarray, bool, uint8 or uint16, (H, W), (H, W, 1) or (H, W, 3)
        The picture.
    metadata : Metadata
        What to keep of the input.
    """
    plane = numbers[..., 0] if numbers.ndim == 3 and numbers.shape[2] == 1 else numbers
    options = _options(metadata)
    if plane.ndim == 2 or plane.dtype == np.uint8:
        PIL.Image.fromarray(plane).save(file, "PNG", **options)
        return
    # Pillow writes colours with 8 bits only: it makes what stands beside the pixels.
    content = require_imagecodecs("16-bit colour PNG").png_encode(np.ascontiguousarray(plane))
    small = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(small, "PNG", **options)
    kept = [chunk for kind, chunk in _chunks(small.getvalue()) if kind not in (b"IHDR", b"IDAT", b"IEND")]
    (_, header), *others = _chunks(content)
    file.write(_SIGNATURE + header + b"".join(kept) + b"".join(chunk for _, chunk in others))


def _options(metadata: Metadata) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if metadata.resolution is not None and metadata.unit in _PER_INCH:
        factor = _PER_INCH[metadata.unit]
        options["dpi"] = tuple(factor * value for value in metadata.resolution)
    if metadata.icc is not None:
        options["icc_profile"] = metadata.icc
    if metadata.exif is not None:
        options["exif"] = metadata.exif
    texts = PIL.PngImagePlugin.PngInfo()
    for key, text in metadata.texts.items():
        if 1 <= len(key) <= 79 and key.isascii():
            texts.add_itxt(key, text)
    return options | {"pnginfo": texts}


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the bytes of each chunk of a PNG."""
    start = len(_SIGNATURE)
    while start < len(content):
        (length,) = struct.unpack_from(">I", content, start)
        yield content[start + 4 : start + 8], content[start : start + length + 12]
        start += length + 12
