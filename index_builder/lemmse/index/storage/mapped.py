"""Memory mapping of several files, one after the other, as one array.

The files are read through the page cache, and may be larger than it. A page belongs to one file only, so that
there is a gap after each file. docs/decisions/0017 explains why the files are not concatenated.
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
"""MAP_FIXED of Linux and macOS: map at the given address, replacing existing mappings."""
_NO_RESERVE = 0x40 if sys.platform == "darwin" else 0x4000
_PRIVATE = mmap.MAP_PRIVATE | _NO_RESERVE
"""Copy on write, without reserving memory for copies, since nothing is written."""


def map_files(files: Sequence[tuple[Path, int]], dtype: DTypeLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the leading elements of files, mapped into memory as one array.

    Parameters
    ----------
    files : sequence of (Path, int)
        The files, and the number of elements to map from the beginning of each, at least 1.
    dtype : dtype
        Element type.

    Returns
    -------
    values : ndarray, flat
        The elements of all files, with gaps in between. Writing to it does not change the files.
    begins : int64, (files,)
        Position of the first element of each file.

    Raises
    ------
    OSError
        A file does not exist, is too short, or cannot be mapped.
    """
    kind = np.dtype(dtype)
    for path, count in files:
        if (found := path.stat().st_size) < count * kind.itemsize:  # pages beyond the end would raise SIGBUS
            raise OSError(f"cannot map {path}: expected {count * kind.itemsize} bytes or more, got {found}")
    if len(files) == 1:
        [(path, count)] = files
        return np.asarray(np.memmap(path, kind, mode="c", shape=(count,))), np.zeros(1, np.int64)
    sizes = np.array([count * kind.itemsize for _, count in files])
    pages = -(-sizes // mmap.PAGESIZE) * mmap.PAGESIZE
    begins = np.concatenate([[0], np.cumsum(pages)])
    # An anonymous mapping reserves the addresses. It is unmapped, with the files, when its last view is
    # deleted.
    reserved = mmap.mmap(-1, int(begins[-1]), flags=_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(reserved, kind)
    for (path, _), begin, size in zip(files, begins, sizes, strict=False):
        _map_at(values.ctypes.data + int(begin), path, int(size))
    return values, begins[:-1] // kind.itemsize


def _map_at(address: int, path: Path, size: int) -> None:
    """Map the first `size` bytes of a file at an address."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        found = libc.mmap(address, size, access, _PRIVATE | _FIXED, descriptor, 0)
    finally:
        os.close(descriptor)
    if found != address:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot map {path}: {os.strerror(number)}")
