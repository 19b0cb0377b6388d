"""Arrays that are mapped into memory from a file."""

import mmap
from typing import Any

__all__ = ["forget"]


def forget(array: Any) -> None:
    """Release the memory of what was read and written of an array, if it is mapped from a file."""
    mapped = getattr(array, "base", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
