"""Open a file of any format that can be read."""

import os
import stat
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument, NotFound
from lemmse.contract.limits import LARGE_PIXELS
from lemmse.index.files.arrays import ARRAYS, open_array
from lemmse.index.files.layout import Layout
from lemmse.index.files.pictures import PICTURES, open_picture
from lemmse.index.files.readable import readable
from lemmse.index.files.stack import Plane, Stack
from lemmse.index.files.tiff import TIFF, open_tiff
from lemmse.index.files.zarrs import is_zarr, open_zarr

__all__ = ["IMAGES", "READ", "open_stack", "read_map", "read_mask", "suffix_of"]

IMAGES = tuple(sorted((*PICTURES, *TIFF)))
"""Suffixes, in lower case, of pictures and TIFF files."""
READ = tuple(sorted((*IMAGES, *ARRAYS, ".zarr")))
"""Suffixes, in lower case, of all formats that can be read."""

_LOSSY = (".jpeg", ".jpg", ".webp")


def suffix_of(path: Path) -> str:
    """Return the suffix of a name in lower case: the one after the last dot."""
    return path.suffix.lower()


def open_stack(
    path: Path,
    *,
    axes: str | None = None,
    stated: tuple[float, float] | None = None,
    volumes: bool = False,
) -> Stack:
    """Open an image file, or a stack of images. Error messages do not name the file.

    Parameters
    ----------
    path : Path
        The file, or the folder of a Zarr array or of OME-Zarr. Its format follows from its suffix, and that
        of pictures from their content.
    axes : str, optional
        Letters of the axes, instead of those that the file states: Y, X, S for the channels of a pixel, and
        any others for axes that number planes.
    stated : (float, float), optional
        The numbers that encode intensities 0 and 1, instead of those of the element type.
    volumes : bool
        Whether arrays whose axes are not stated are volumes; otherwise they are images.

    Raises
    ------
    NotFound
        There is no such file.
    InvalidArgument
        The file is not an image or stack, is damaged, or is too large.
    FailedPrecondition
        Reading it needs a package that is not installed.
    """
    with readable():
        if is_zarr(path):
            return open_zarr(path, axes, stated, volumes=volumes)
        suffix = suffix_of(path)
        if suffix not in READ:
            raise InvalidArgument(f"expected a name in {', '.join(READ)}, got {path.name!r}")
        _require_file(path)
        if suffix == ".zarr":
            raise InvalidArgument("expected a Zarr array or OME-Zarr, got a file")
        if suffix in ARRAYS:
            return open_array(path, axes, stated, volumes=volumes)
        stack = open_tiff(path, stated) if suffix in TIFF else open_picture(path, stated)
        if axes is None:
            return stack
        try:
            return replace(stack, layout=_relabelled(stack, axes))
        except BaseException:
            stack.close()
            raise


def _require_file(path: Path) -> None:
    """Raise an error unless a path is a regular file or a folder: others, such as pipes, may never end."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise NotFound("expected an image file, got nothing there") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise InvalidArgument(f"expected an image file, got {kind}")


def read_mask(path: Path) -> NDArray[Any] | Plane:
    """Return the only plane of a file in the numbers that are displayed, of any element type.

    A large plane of a divisible file stays there, and is read in parts.
    """
    if suffix_of(path) in _LOSSY:
        raise InvalidArgument(f"expected a lossless format, got {suffix_of(path)}, which changes zeros")
    return _only(open_stack(path, stated=(0, 1)))


def read_map(path: Path) -> NDArray[Any] | Plane:
    """Return the only plane of a file of floats; a large one stays there, as in `read_mask`."""
    stack = open_stack(path, stated=(0, 1))
    if stack.scale.dtype.kind != "f":
        stack.close()
        raise InvalidArgument(f"expected floats, in intensities of [0, 1], got {stack.scale.dtype}")
    plane = _only(stack)
    return plane.astype(np.float32) if isinstance(plane, np.ndarray) and plane.dtype.itemsize < 4 else plane


def _only(stack: Stack) -> NDArray[Any] | Plane:
    if stack.divisible and len(stack) == 1 and prod(stack.layout.plane_shape[:2]) > LARGE_PIXELS:
        return stack.plane(0)
    with stack:
        return stack.only()


def _relabelled(stack: Stack, axes: str) -> Layout:
    layout = stack.layout
    if len(axes) != len(layout.axes) or layout.axes[-2:] != axes[-2:]:
        raise InvalidArgument(
            f"expected letters for {layout.axes} {layout.shape}, the last two of them the same, got {axes}"
        )
    return Layout.checked(axes, layout.shape)
