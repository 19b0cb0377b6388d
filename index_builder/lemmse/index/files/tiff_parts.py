"""The parts of a TIFF page, tiles or strips, which are checked before they are decoded.

A part says itself how much it decodes to. Decoders of numbers stop at the size of the part, except where
imagecodecs is not installed; decoders of images do not, so that their headers have to state that size.
"""

import importlib.util
import io
import lzma
import warnings
import zlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import PIL.Image

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.limits import MAX_SAMPLES

__all__ = ["JPEG", "check_parts"]

JPEG = (6, 7, 33007)
"""TIFF's numbers for JPEG."""

_STREAMS: dict[int, tuple[Callable[[], Any], int]] = {
    8: (zlib.decompressobj, 1032),
    32946: (zlib.decompressobj, 1032),
    34925: (lzma.LZMADecompressor, 8000),
}
"""Compressions that tifffile decodes to whatever length where imagecodecs is not installed: a decoder and the
largest ratio of lengths."""
_BOUNDED = (1, 5, 32773, 50000)
"""Others that are decoded up to the size of a part: none, LZW, PackBits, Zstandard."""
_PILLOW = ("JPEG", "JPEG2000", "PNG", "WEBP")
_PICTURES = (*JPEG, 33003, 33004, 33005, 34712, 34933, 50001)
"""Compressions whose parts are pictures of these formats."""


def check_parts(page: Any) -> None:
    """Raise InvalidArgument if a part of a page would decode to more than its size.

    Parameters
    ----------
    page : TiffPage or TiffFrame
        The page, as tifffile has opened it.
    """
    key = page.keyframe
    if key.compression in _STREAMS:
        if importlib.util.find_spec("imagecodecs") is None:
            _check_lengths(key, *_STREAMS[key.compression], _parts(page))
    elif key.compression in _PICTURES:
        _check_pictures(key, _parts(page))
    elif key.compression not in _BOUNDED:
        raise InvalidArgument(
            f"expected a compression of numbers, JPEG, JPEG 2000, WebP or PNG, got {key.compression.name}; "
            "convert it first"
        )


def _parts(page: Any) -> Iterator[bytes]:
    file = page.parent.filehandle
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        yield file.read(count)


def _check_lengths(page: Any, make: Callable[[], Any], ratio: int, parts: Iterator[bytes]) -> None:
    expected = prod(page.chunks) * page.dtype.itemsize
    for part in parts:
        if len(part) * ratio <= MAX_SAMPLES:
            continue
        decoder, rest, length = make(), part, 0
        while length <= expected and (decoded := decoder.decompress(rest, 1 << 20)):
            length += len(decoded)
            rest = getattr(decoder, "unconsumed_tail", b"")
        if length > expected:
            raise InvalidArgument(f"expected parts of {expected} bytes, got longer ones; it is damaged")


def _check_pictures(page: Any, parts: Iterator[bytes]) -> None:
    height, width = page.imagelength, page.imagewidth
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
    for part in parts:
        if not part:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(part), formats=_PILLOW) as picture:
                size = picture.size
        # A part at the border, or one in whole blocks of 16, may differ a little from what the page says.
        if size[0] > width + 16 or size[1] > height + 16:
            raise InvalidArgument(f"expected parts of {width} × {height}, got {size[0]} × {size[1]}")
