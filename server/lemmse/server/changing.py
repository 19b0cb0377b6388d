"""Files that are read again when they change.

A program that writes a file in place empties it first. So an empty file is not read until it has been empty
for a while.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from lemmse.contract.errors import LemmseError

__all__ = ["Changing"]

_LOG = logging.getLogger(__name__)

_WRITTEN = 2.0
"""Time in seconds for which a file may be empty because it is being written."""

T = TypeVar("T")
_Stamp = tuple[tuple[int, int, int], ...] | None


class Changing(Generic[T]):
    """What files contain, read again after any of them has changed.

    Where new contents are invalid, the earlier value stays, and the error is logged once. It also stays while
    a file is empty, for up to two seconds.

    Parameters
    ----------
    paths : tuple of Path
        The files.
    read : callable
        Reads them, and raises LemmseError if they are invalid.

    Raises
    ------
    LemmseError
        The files are invalid when they are first read.
    """

    def __init__(self, paths: tuple[Path, ...], read: Callable[[], T]) -> None:
        self._paths, self._read, self._lock = paths, read, Lock()
        # Taken before the files are read: a change in between is seen next time.
        self._stamp = self._look()
        self._value = read()

    def get(self) -> T:
        """Return the contents of the files. Any thread may call it."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp and not _is_being_written(stamp):
                self._stamp = stamp
                self._renew()
            return self._value

    def _renew(self) -> None:
        names = ", ".join(map(str, self._paths))
        try:
            self._value = self._read()
        except LemmseError as error:
            _LOG.error("%s; what was read before stays in use", error)
        else:
            _LOG.info("read again: %s", names)

    def _look(self) -> _Stamp:
        """Return what changes with the files; None if one of them is missing."""
        try:
            stats = [path.stat() for path in self._paths]
        except OSError:
            return None
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


def _is_being_written(stamp: _Stamp) -> bool:
    now = time.time_ns()
    return any(size == 0 and abs(now - changed) < _WRITTEN * 1e9 for changed, size, _ in stamp or ())
