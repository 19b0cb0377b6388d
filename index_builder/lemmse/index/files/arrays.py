"""NumPy files: .npy, mapped into memory, and .npz with one array.

An array with two axes is an image (Y, X), one with three an image with channels (Y, X, S); others need axes.
Where volumes are expected, one with three is (Z, Y, X), with four (T, Z, Y, X), with five (T, Z, Y, X, S).
"""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.layout import Layout
from lemmse.index.files.limits import MAX_SAMPLES
from lemmse.index.files.scale import Scale
from lemmse.index.files.stack import Metadata, Stack

__all__ = ["ARRAYS", "Header", "array_axes", "npz_headers", "open_array", "read_header"]

ARRAYS = (".npy", ".npz")
"""Suffixes of NumPy files, in lower case."""


class Header(NamedTuple):
    """What a NumPy file says about its array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    """Whether the first axis varies fastest."""

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype.name}"


def open_array(
    path: Path,
    axes: str | None = None,
    stated: tuple[float, float] | None = None,
    *,
    volumes: bool = False,
) -> Stack:
    """Open a NumPy file.

    Raises
    ------
    InvalidArgument
        It has several arrays, or its axes are not known.
    """
    if path.suffix.lower() == ".npy":
        array: NDArray[Any] = npy.open_memmap(path, mode="r")
        axes = array_axes(array.shape, axes, volumes=volumes)
        header = Header(array.shape, array.dtype, array.flags.fnc)
        return replace(_stack(array, header, axes, stated, Metadata()), divisible=True)
    headers = npz_headers(path)
    if len(headers) != 1:
        listing = ", ".join(f"{name} {header}" for name, header in headers.items()) or "none"
        raise InvalidArgument(f"expected one array, got {listing}")
    ((name, header),) = headers.items()
    if np.prod(header.shape, dtype=object) > MAX_SAMPLES:
        raise InvalidArgument(f"expected at most {MAX_SAMPLES} values in .npz, got {header}; save it as .npy")
    with np.load(path, allow_pickle=False) as archive:
        array = archive[name]
    axes = array_axes(header.shape, axes, volumes=volumes)
    return _stack(array, header, axes, stated, Metadata(details={"name": name}))


def read_header(file: IO[bytes]) -> Header:
    """Return the header of an array in a NumPy file."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return Header(shape, dtype, fortran)


def npz_headers(path: Path) -> dict[str, Header]:
    """Return the headers of the arrays in an .npz file, by name."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    headers[member.removesuffix(".npy")] = read_header(file)
    return headers


def array_axes(shape: tuple[int, ...], axes: str | None, *, volumes: bool = False) -> str:
    """Return the letters of the axes of an array, by default those of one image, or of volumes."""
    if axes is not None:
        return axes
    if volumes:
        if len(shape) not in (3, 4, 5):
            raise InvalidArgument(f"expected volumes (D, H, W), (N, D, H, W) or (N, D, H, W, C), got {shape}")
        return ("ZYX", "TZYX", "TZYXS")[len(shape) - 3]
    if len(shape) not in (2, 3):
        raise InvalidArgument(f"expected an image (H, W) or (H, W, C), got {shape}; state axes, such as TYX")
    return "YX" if len(shape) == 2 else "YXS"


def _stack(
    array: NDArray[Any],
    header: Header,
    axes: str,
    stated: tuple[float, float] | None,
    metadata: Metadata,
) -> Stack:
    layout = Layout.checked(axes, header.shape)
    return Stack(layout=layout, scale=Scale.of(header.dtype, stated=stated), array=array, metadata=metadata)
