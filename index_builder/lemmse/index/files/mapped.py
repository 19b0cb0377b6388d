"""Arrays that are mapped into memory from a file."""

import mmap
import os
from pathlib import Path
from typing import Any

__all__ = ["forget", "reserve"]


def reserve(path: Path) -> None:
    """Reserve the space of a file; raise OSError if the disk is full, which ends a process that maps it."""
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def forget(array: Any) -> None:
    """Release the memory of what was read and written of an array, if it is mapped from a file."""
    mapped = getattr(array, "base", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
