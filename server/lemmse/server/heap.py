"""Return of freed memory to the operating system.

Of arrays that were freed, the C library keeps memory for later ones, in several heaps. Large requests of many
threads leave more and more of it there.
"""

import asyncio
import ctypes

__all__ = ["keep_trimmed", "trim"]

_EVERY = 10.0
"""Time between two trims, in seconds."""
_MALLOC_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)


def trim() -> None:
    """Return what is free in the heaps; without effect if the C library is not glibc."""
    if _MALLOC_TRIM is not None:
        _MALLOC_TRIM(0)


async def keep_trimmed() -> None:
    """Trim the heaps again and again, until cancelled."""
    while True:
        await asyncio.sleep(_EVERY)
        await asyncio.to_thread(trim)
