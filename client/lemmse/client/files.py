"""Image files: read with the bit depth they have, written with the bit depth they had.

PNG holds 8 or 16 bits, TIFF and npy also floats.
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

__all__ = ["SUFFIXES", "as_stored", "read", "read_array", "write"]

Stored = NDArray[Any]
"""An image as a file holds it: uint8, uint16 or float32."""

_PNG_GREY = 0
_ALPHA = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
"""What TIFF calls transparency; channels that it has no name for are as good as any."""


def read(path: Path) -> Stored:
    """Read an image file. Errors say what is wrong with it; which file it is, the caller knows.

    Returns
    -------
    ndarray, uint8, uint16 or float32, (H, W) or (H, W, C)
        The image as the file holds it; float16 and float64 become float32.

    Raises
    ------
    NotFound
        There is no such file.
    InvalidArgument
        It is not one image, is cut short, has a depth that would be lost, or its numbers are no intensities.
    """
    stored = read_array(path)
    if np.issubdtype(stored.dtype, np.floating):
        return stored.astype(np.float32)
    if stored.dtype.kind != "u" or stored.dtype.itemsize > 2:
        raise InvalidArgument(f"expected uint8, uint16 or float, got {stored.dtype}")
    return stored.astype(stored.dtype.newbyteorder("="))


def read_array(path: Path) -> NDArray[Any]:
    """Read what an image file holds, whatever its element type: a mask, for example, of a single bit.

    Raises
    ------
    NotFound
        There is no such file.
    InvalidArgument
        It is not an image by its name, cannot be read, or `read` would refuse its depth or numbers.
    """
    try:
        if path.suffix.lower() not in SUFFIXES:
            raise InvalidArgument(f"expected a name in {', '.join(sorted(SUFFIXES))}, got {path.name!r}")
        return np.asarray(_READERS[path.suffix.lower()](path))
    except InvalidArgument:
        raise
    except FileNotFoundError as error:
        raise NotFound("expected an image file, got nothing there") from error
    except Exception as error:  # Decoders raise whatever they trip over.
        message = " ".join(str(error).split()) or type(error).__name__
        raise InvalidArgument(f"expected an image, but it cannot be read: {message}") from error


def write(path: Path, stored: Stored) -> None:
    """Write an image file: under a temporary name first, so that nobody sees half of it.

    Parameters
    ----------
    path : path
        Its suffix is the format. The folder is made where it is missing.
    stored : ndarray, uint8, uint16 or float32
        The image; PNG holds no floats.
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
    """Return an image as a file with this element type holds it: integers rounded and clipped to their range.

    Examples
    --------
    >>> as_stored(np.array([[-0.1, 51.4, 300]], np.float32), np.dtype(np.uint8))
    array([[  0,  51, 255]], dtype=uint8)
    """
    if dtype.kind == "f":
        return image
    return np.rint(np.clip(image, 0, np.iinfo(dtype).max)).astype(dtype)


def _read_png(path: Path) -> Stored:
    # Bytes 24 and 25 are the depth and the colour type. Pillow reads 16-bit colour with 8 bits, silently.
    with path.open("rb") as file:
        head = file.read(26)
    if head[24:25] == b"\x10" and head[25:] != bytes([_PNG_GREY]):
        raise InvalidArgument(
            f"{path}: expected 8 bits or 16-bit grey, got 16-bit colour; convert it to TIFF"
        )
    stored = iio.imread(path, plugin="pillow", extension=".png")
    return _without_alpha(stored) if stored.ndim == 3 and stored.shape[2] in (2, 4) else stored


def _read_tiff(path: Path) -> Stored:
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if len(file.pages) != 1 or page.axes not in ("YX", "YXS", "SYX"):
            raise InvalidArgument(f"expected one picture, got {len(file.pages)} ({file.series[0].axes})")
        # The numbers of a palette are names of colours, and MINISWHITE counts from white to black; but
        # tifffile itself writes truth values under that name.
        known = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        if page.photometric not in known and page.dtype != np.bool_:
            kind = tifffile.PHOTOMETRIC(page.photometric).name
            raise InvalidArgument(f"expected a grey or RGB image, got {kind}; convert it first")
        pixels: Stored = page.asarray()
        pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
        return _without_alpha(pixels) if _ALPHA.intersection(page.extrasamples) else pixels


def _without_alpha(stored: Stored) -> Stored:
    """Drop the last channel where it says nothing, as a build does."""
    alpha = stored[..., -1]
    if (alpha != (1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max)).any():
        raise InvalidArgument("expected an opaque image, got transparent pixels; flatten it first")
    return stored[..., :-1]


def _read_npy(path: Path) -> Stored:
    with path.open("rb") as file:
        array: Stored = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _write_png(file: BinaryIO, stored: Stored) -> None:
    iio.imwrite(file, stored, plugin="pillow", extension=".png")


def _write_tiff(file: BinaryIO, stored: Stored) -> None:
    colour = stored.ndim == 3 and stored.shape[2] == 3
    tifffile.imwrite(
        file,
        stored,
        photometric="rgb" if colour else "minisblack",
        planarconfig="contig" if stored.ndim == 3 else None,  # otherwise each row becomes a picture
    )


def _write_npy(file: BinaryIO, stored: Stored) -> None:
    np.lib.format.write_array(file, stored, allow_pickle=False)


_READERS: dict[str, Callable[[Path], Stored]] = {
    ".npy": _read_npy,
    ".png": _read_png,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
}

_WRITERS: dict[str, Callable[[BinaryIO, Stored], None]] = {
    ".npy": _write_npy,
    ".png": _write_png,
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
}

SUFFIXES = frozenset(_READERS)
"""Suffixes of the formats, in lower case."""
