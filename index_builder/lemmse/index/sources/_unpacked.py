"""Arrays that are unpacked to disk, since compressed files may hold more than fits in memory."""

import tempfile
from math import prod
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lemmse.index.sources._image import bad_source

__all__ = ["unpacked"]

_STEP = 1 << 20
"""Number of bytes to decode at a time."""


def unpacked(
    file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], path: str, order: Literal["C", "F"] = "C"
) -> NDArray[Any]:
    """Return the array that follows in a decoded stream, mapped from a temporary file.

    No more is decoded than the shape says: a small file may decode to terabytes.

    Raises
    ------
    InvalidArgument
        There is less in the stream, or more.
    """
    expected = prod(shape) * dtype.itemsize
    with tempfile.TemporaryFile() as unpacked_file:
        size = 0
        while part := file.read(min(_STEP, expected + 1 - size)):
            size += unpacked_file.write(part)
        if size != expected:
            more = " or more" if size > expected else ""
            raise bad_source(f"expected {expected} bytes after the header, got {size}{more} in {path}")
        unpacked_file.flush()
        return np.memmap(unpacked_file, dtype, "r", shape=shape, order=order)
