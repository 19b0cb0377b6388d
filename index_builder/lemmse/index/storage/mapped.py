"""Arrays that lie in several files, mapped into memory one after the other, as one array.

What is read comes through the page cache, which may be smaller than the files. A page belongs to one file, so
that there is a gap after each.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["map_files"]

_FIXED = 0x10
"""MAP_FIXED of Linux and macOS: at that address, in the place of what is mapped there."""
_NO_RESERVE = 0x40 if sys.platform == "darwin" else 0x4000
_PRIVATE = mmap.MAP_PRIVATE | _NO_RESERVE
"""Nothing is written, so that no memory need be kept free for it."""


def map_files(files: Sequence[tuple[Path, int]], dtype: DTypeLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Map the beginnings of files.

    Parameters
    ----------
    files : sequence of (path, int)
        The files, and how many numbers are at the beginning of each, one at least.
    dtype : dtype
        Kind of the numbers.

    Returns
    -------
    ndarray, flat
        The numbers of all files and what lies in the gaps. What is written to it is not written to the files.
    int64, (files,)
        Where the numbers of each file begin.
    """
    kind = np.dtype(dtype)
    sizes = np.array([count * kind.itemsize for _, count in files])
    pages = -(-sizes // mmap.PAGESIZE) * mmap.PAGESIZE
    begins = np.concatenate([[0], np.cumsum(pages)])
    # The mapping of nothing holds the addresses; it is let go of, with all that took its place, as its last
    # view is.
    held = mmap.mmap(-1, int(begins[-1]), flags=_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(held, kind)
    for (path, _), begin, size in zip(files, begins, sizes, strict=False):
        _map(path, values.ctypes.data + int(begin), int(size))
    return values, begins[:-1] // kind.itemsize


def _map(path: Path, address: int, size: int) -> None:
    """Map the beginning of a file at an address."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if (found := os.fstat(descriptor).st_size) < size:  # what is beyond its end would end the process
            raise OSError(f"cannot map {path}: expected {size} bytes or more, got {found}")
        access = mmap.PROT_READ | mmap.PROT_WRITE
        at = libc.mmap(address, size, access, _PRIVATE | _FIXED, descriptor, 0)
    finally:
        os.close(descriptor)
    if at != address:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot map {path}: {os.strerror(number)}")
