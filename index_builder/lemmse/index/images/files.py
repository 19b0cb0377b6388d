"""Image files: the rules for their content, and reading and writing by suffix.

A file contains one grey or RGB image. PNG has 8 or 16 bits per channel; TIFF and npy also store floats. Files
that a decoder would silently change are rejected:

    16-bit colour PNG        Pillow reads only 8 bits
    TIFF palette, inverted   the numbers are not intensities, or run from white to black
    transparent pixels       an opaque alpha channel is dropped
    several pictures         it is ambiguous which one is meant
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import imageio.v3 as iio
import numpy as np
import tifffile
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument, NotFound
from lemmse.contract.lines import one_line

__all__ = ["PICTURE_SUFFIXES", "SUFFIXES", "as_stored", "decode", "read", "read_array", "write"]

Stored = NDArray[Any]
"""An image with the element type of its file: uint8, uint16 or float32."""

_TIFF = (".tif", ".tiff")
SUFFIXES = frozenset((".npy", ".png", *_TIFF))
"""Suffixes, in lower case, of the lossless formats that `read` and `write` support."""
PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp", *_TIFF)
"""Suffixes, in lower case, of the picture formats that `decode` supports, which do not include npy."""

_MODES = ("L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "P", "1")
"""Pillow's names for grey and RGB pixel formats."""
_ALPHA = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
"""TIFF's names for transparency; channels without a name count as image channels."""


def decode(path: Path, where: str = "") -> NDArray[Any]:
    """Return the pixels of a file; files that would be silently changed are rejected.

    Parameters
    ----------
    path : Path
        The file; npy and TIFF are recognized by suffix, and all others are read by Pillow.
    where : str
        Inserted in error messages after the actual content, for example " in a/b.png".

    Returns
    -------
    ndarray, (H, W) or (H, W, C)
        The pixels, with the element type of the file.

    Raises
    ------
    InvalidArgument
        The file is not one opaque grey or RGB image.
    Exception
        Any exception of a decoder that cannot read the file.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _decode_npy(path)
    return _decode_tiff(path, where) if suffix in _TIFF else _decode_with_pillow(path, where)


def read(path: Path) -> Stored:
    """Return the image in a file. Error messages do not name the file.

    Returns
    -------
    ndarray, uint8, uint16 or float32, (H, W) or (H, W, C)
        The image; float16 and float64 become float32.

    Raises
    ------
    NotFound
        There is no such file.
    InvalidArgument
        The file is not one image, is truncated, would lose depth, or its numbers are not intensities.
    """
    stored = read_array(path)
    if np.issubdtype(stored.dtype, np.floating):
        return stored.astype(np.float32)
    if stored.dtype.kind != "u" or stored.dtype.itemsize > 2:
        raise InvalidArgument(f"expected uint8, uint16 or float, got {stored.dtype}")
    return stored.astype(stored.dtype.newbyteorder("="))


def read_array(path: Path) -> NDArray[Any]:
    """Return the content of an image file of any element type, for example a mask of single bits.

    Raises
    ------
    NotFound
        There is no such file.
    InvalidArgument
        The suffix is not in `SUFFIXES`, the file cannot be read, or `decode` rejects it.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument(f"expected a name in {', '.join(sorted(SUFFIXES))}, got {path.name!r}")
    try:
        return np.asarray(decode(path))
    except InvalidArgument:
        raise
    except FileNotFoundError as error:
        raise NotFound("expected an image file, got nothing there") from error
    except Exception as error:  # decoders raise arbitrary exceptions
        message = one_line(error, type(error).__name__)
        raise InvalidArgument(f"expected an image, but it cannot be read: {message}") from error


def write(path: Path, stored: Stored) -> None:
    """Write an image file under a temporary name and rename it, so that readers never see a partial file.

    Parameters
    ----------
    path : Path
        The file; its suffix, one of `SUFFIXES`, determines the format. A missing folder is created.
    stored : ndarray, uint8, uint16 or float32
        The image; PNG cannot store floats.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            _WRITERS[path.suffix.lower()](file, stored)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def as_stored(image: NDArray[np.float32], dtype: np.dtype[Any]) -> Stored:
    """Return an image in the element type of a file; for integers it is rounded and clipped to their range.

    Examples
    --------
    >>> as_stored(np.array([[-0.1, 51.4, 300]], np.float32), np.dtype(np.uint8))
    array([[  0,  51, 255]], dtype=uint8)
    """
    if dtype.kind == "f":
        return image
    return np.rint(np.clip(image, 0, np.iinfo(dtype).max)).astype(dtype)


def _decode_npy(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _decode_with_pillow(path: Path, where: str) -> NDArray[Any]:
    if _is_deep_png(path):
        raise InvalidArgument(
            f"expected 8 bits a channel or 16-bit grey, got a 16-bit colour PNG{where}; save it as TIFF"
        )
    try:
        opened = iio.imopen(path, "r", plugin="pillow")
    except OSError as error:
        raise InvalidArgument(
            f"expected an image, but it cannot be read: its content is of no known format{where}"
        ) from error
    with opened as file:
        mode = file.metadata()["mode"]
        if mode not in _MODES:
            raise InvalidArgument(f"expected a grey or RGB image, got mode {mode}{where}; convert it first")
        pixels: NDArray[Any] = file.read()
    return _drop_alpha(pixels, where) if pixels.ndim == 3 and pixels.shape[2] in (2, 4) else pixels


def _is_deep_png(path: Path) -> bool:
    """Return whether a file is a 16-bit colour PNG, of which Pillow reads only 8 bits."""
    with path.open("rb") as file:
        header = file.read(26)  # bytes 24 and 25 are the bit depth and the colour type
    grey = 0
    return len(header) == 26 and header.startswith(b"\x89PNG") and header[24] == 16 and header[25] != grey


def _decode_tiff(path: Path, where: str) -> NDArray[Any]:
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if len(file.pages) != 1 or page.axes not in ("YX", "YXS", "SYX"):
            raise InvalidArgument(
                f"expected one picture, got {len(file.pages)} ({file.series[0].axes}){where}"
            )
        # tifffile writes booleans as MINISWHITE without inverting them.
        plain = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        if page.photometric not in plain and page.dtype != np.bool_:
            kind = tifffile.PHOTOMETRIC(page.photometric).name
            raise InvalidArgument(f"expected a grey or RGB image, got {kind}{where}; convert it first")
        pixels: NDArray[Any] = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    return _drop_alpha(pixels, where) if _ALPHA.intersection(page.extrasamples) else pixels


def _drop_alpha(pixels: NDArray[Any], where: str) -> NDArray[Any]:
    """Return the pixels without the last channel, which must be opaque everywhere."""
    alpha = pixels[..., -1]
    if (alpha != (1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max)).any():
        raise InvalidArgument(f"expected an opaque image, got transparent pixels{where}; flatten it first")
    return pixels[..., :-1]


def _write_png(file: BinaryIO, stored: Stored) -> None:
    iio.imwrite(file, stored, plugin="pillow", extension=".png")


def _write_tiff(file: BinaryIO, stored: Stored) -> None:
    colour = stored.ndim == 3 and stored.shape[2] == 3
    tifffile.imwrite(
        file,
        stored,
        photometric="rgb" if colour else "minisblack",
        planarconfig="contig" if stored.ndim == 3 else None,  # otherwise each row would become a page
    )


def _write_npy(file: BinaryIO, stored: Stored) -> None:
    np.lib.format.write_array(file, stored, allow_pickle=False)


_WRITERS: dict[str, Callable[[BinaryIO, Stored], None]] = {
    ".npy": _write_npy,
    ".png": _write_png,
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
}
