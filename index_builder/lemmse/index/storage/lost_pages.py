"""Pages of mapped files that can no longer be read, because the file was cut short.

The kernel sends SIGBUS to the thread that touches such a page, which ends the process. `survive` installs a
handler that puts a page of zeros there instead and takes note, so that the answer is computed to its end and
then refused. It is for servers: a program that embeds an index may have a handler of its own.
"""

import ctypes
import mmap
import signal
import sys
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Watched", "survive"]

_MOST = 1024
"""Largest number of ranges that are watched at a time."""
_ranges: NDArray[np.int64] = np.zeros((_MOST, 3), np.int64)
"""First address of each range, the address after its end, and whether a page of it was lost."""
_kept: list[Any] = []
"""What the installed handler refers to."""
_ADDRESS = 2
"""Place of the address in a siginfo_t of 64-bit Linux, in words of 8 bytes."""
_SIGINFO, _ON_STACK = 4, 0x0800_0000


class _Action(ctypes.Structure):
    """struct sigaction of the C library of Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Watched:
    """A range of addresses, watched for as long as the object exists.

    Parameters
    ----------
    region : ndarray
        The range.
    """

    def __init__(self, region: NDArray[np.uint8]) -> None:
        free = np.flatnonzero(_ranges[:, 1] == 0)
        self._place = int(free[0]) if len(free) else None
        if self._place is not None:
            begin = region.ctypes.data
            _ranges[self._place] = begin, begin + region.nbytes, 0

    @property
    def lost(self) -> bool:
        """Whether a page was lost."""
        return self._place is not None and bool(_ranges[self._place, 2])

    def __del__(self) -> None:
        if self._place is not None:
            _ranges[self._place] = 0


def survive() -> None:
    """Have the process survive the loss of pages of watched ranges, on 64-bit Linux."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8 or _kept:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    old, new = _Action(), _Action()
    handler = _compiled_handler(libc, old)
    new.handler, new.flags = handler.address, _SIGINFO | _ON_STACK
    _kept.extend((libc, old, handler))
    if libc.sigaction(signal.SIGBUS, ctypes.byref(new), ctypes.byref(old)):
        raise OSError(ctypes.get_errno(), "the handler of SIGBUS cannot be installed")


def _compiled_handler(libc: Any, old: _Action) -> Any:
    """Return the handler, in machine code: Python may not run where a signal interrupts it."""
    numba: Any = import_module("numba")
    extending: Any = import_module("numba.extending")
    types, carray = numba.types, numba.carray

    @extending.intrinsic  # type: ignore[untyped-decorator]
    def pointer(_typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

        return types.voidptr(address), generate

    place, sigaction = libc.mmap, libc.sigaction
    place.argtypes = [ctypes.c_size_t, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_size_t]
    place.restype = ctypes.c_size_t
    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t)
    restore = call(ctypes.cast(sigaction, ctypes.c_void_p).value or 0)
    table, count, page = _ranges.ctypes.data, _MOST, mmap.PAGESIZE
    access = mmap.PROT_READ | mmap.PROT_WRITE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
    previous, number, word = ctypes.addressof(old), int(signal.SIGBUS), _ADDRESS

    @numba.cfunc(types.void(types.int32, types.CPointer(types.int64), types.voidptr))  # type: ignore[untyped-decorator]
    def handle(_number: Any, information: Any, _context: Any) -> None:
        address = carray(information, (word + 1,))[word]
        ranges = carray(pointer(table), (count, 3), np.int64)
        for i in range(count):
            if ranges[i, 0] <= address < ranges[i, 1]:
                ranges[i, 2] = 1
                place(address // page * page, page, access, flags, -1, 0)
                return
        restore(number, previous, 0)  # the instruction is repeated, and the signal handled as before

    return handle
