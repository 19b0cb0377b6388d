"""The files of an index version, opened once: what happens to their folder afterwards changes no answer.

All files are placed one after the other in one range of addresses, each at the beginning of a page. Small
files are read; large ones are mapped, so that an index may be larger than memory, and are read through the
page cache. A mapped file that is removed or replaced by another stays readable. One that is cut short or
overwritten in its place does not: `require_unchanged` finds out. docs/decisions/0022 gives the measurements.
"""

import ctypes
import hashlib
import mmap
import os
import stat
import sys
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lemmse.contract.errors import DataLoss
from lemmse.index.callbacks import Progress, silent
from lemmse.index.storage.lost_pages import Watched
from lemmse.index.storage.manifest import REMEDY, FileEntry

__all__ = ["IN_MEMORY", "PinnedFiles"]

IN_MEMORY = 1 << 20
"""Largest length of a file that is read into memory, in bytes; others are mapped."""

_FIXED = 0x10
"""MAP_FIXED of Linux and macOS: map at the given address, replacing existing mappings."""
_NO_RESERVE = 0x40 if sys.platform == "darwin" else 0x4000
_PRIVATE = mmap.MAP_PRIVATE | _NO_RESERVE
"""Copy on write, without reserving memory for copies, since nothing is written."""
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class _Identity(NamedTuple):
    """What the file system says about a file; writing to a file changes it."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> "_Identity":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class PinnedFiles:
    """Files of the folder of an index version, opened for as long as the object exists.

    It holds one descriptor, that of the folder.

    Parameters
    ----------
    folder : Path
        The folder.
    files : mapping of str to FileEntry
        The files to open, by path in the folder, with the length that each must have.

    Raises
    ------
    DataLoss
        A file is missing, has another length, is not an ordinary file, or lies outside of the folder.
    """

    def __init__(self, folder: Path, files: Mapping[str, FileEntry]) -> None:
        self._files = files
        # The same file of all shards is consecutive, so that it can be seen as one array.
        names = sorted(files, key=lambda name: (_within_shard(name), name))
        sizes = np.array([files[name].bytes for name in names], np.int64)
        pages = -(-sizes // mmap.PAGESIZE) * mmap.PAGESIZE
        begins = np.concatenate([[0], np.cumsum(pages)]).tolist()
        self._begins = dict(zip(names, begins, strict=False))
        try:
            self._folder = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except OSError as error:
            raise DataLoss(
                f"the folder of the version cannot be opened: {error.strerror}; {REMEDY}"
            ) from error
        weakref.finalize(self, os.close, self._folder)
        self._require_inside(folder)
        self._require_lengths()  # of all files, before memory is taken for one
        # An anonymous mapping reserves the addresses. It is unmapped, with the files, when its last view is
        # deleted.
        reserved = mmap.mmap(-1, max(1, begins[-1]), flags=_PRIVATE | mmap.MAP_ANONYMOUS)
        self._region = np.frombuffer(reserved, np.uint8)
        self._watched = Watched(self._region)
        self._mapped: dict[str, _Identity] = {}
        self._lost: str | None = None
        for name in names:
            self._pin(name)

    def __contains__(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return name in self._files

    def __getitem__(self, name: str) -> NDArray[np.uint8]:
        """Return the content of a file."""
        begin = self._begins[name]
        return self._region[begin : begin + self._files[name].bytes]

    @cached_property
    def contents(self) -> dict[str, NDArray[np.uint8]]:
        """The contents of all files by name."""
        return {name: self[name] for name in self._files}

    def values(
        self, names: Sequence[str], counts: Sequence[int], dtype: DTypeLike
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the leading elements of files as one array, with gaps in between.

        Parameters
        ----------
        names : sequence of str
            The files, the same of consecutive shards.
        counts : sequence of int
            The number of elements of each.
        dtype : dtype
            Element type.

        Returns
        -------
        values : ndarray, flat
            The elements of all files. Writing to it does not change the files.
        begins : int64, (files,)
            Position of the first element of each file.
        """
        kind = np.dtype(dtype)
        first = self._begins[names[0]]
        end = self._begins[names[-1]] + counts[-1] * kind.itemsize
        begins = np.array([self._begins[name] - first for name in names], np.int64)
        return self._region[first:end].view(kind), begins // kind.itemsize

    def require_unchanged(self) -> None:
        """Raise DataLoss if a mapped file was cut short or overwritten after it was opened.

        Raises
        ------
        DataLoss
            A file was changed.
        """
        if self._lost is None and self._watched.lost:
            self._lost = f"a file was cut short while the index was open; {REMEDY}"
        if self._lost is not None:
            raise DataLoss(self._lost)
        for name, identity in self._mapped.items():
            try:
                found = _Identity.of(os.stat(name, dir_fd=self._folder))
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue  # nobody reaches the opened file by this name
            except OSError as error:
                raise DataLoss(f"{name} cannot be read: {error.strerror}; {REMEDY}") from error
            if found != identity and found[:2] == identity[:2]:
                self._lost = f"{name} was changed while the index was open; {REMEDY}"
                raise DataLoss(self._lost)

    def verify(self, progress: Progress = silent) -> None:
        """Raise DataLoss unless every file has its checksum.

        Parameters
        ----------
        progress : callable
            Called as `progress(stage, done, total)`, in bytes.

        Raises
        ------
        DataLoss
            A file is altered.
        """
        stage, done, total = "compare checksums", 0, sum(entry.bytes for entry in self._files.values())
        progress(stage, done, total)
        self.require_unchanged()
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda name: hashlib.sha256(self[name].data).hexdigest(), self._files)
            for (name, entry), digest in zip(self._files.items(), found, strict=True):
                if digest != entry.sha256:
                    raise DataLoss(f"{name} is altered: its SHA-256 is not the manifest's; {REMEDY}")
                done += entry.bytes
                progress(stage, done, total)
        self.require_unchanged()

    def _require_inside(self, folder: Path) -> None:
        """Raise DataLoss if the way to a file leads through a symbolic link."""
        for within in sorted({str(PurePosixPath(name).parent) for name in self._files}):
            path = os.path.join(folder, within)
            if os.path.realpath(path) != os.path.join(os.path.realpath(folder), within).removesuffix("/."):
                raise DataLoss(f"{within} leads out of the folder through a symbolic link; {REMEDY}")

    def _require_lengths(self) -> None:
        for name, entry in self._files.items():
            try:
                found = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
            except (OSError, ValueError) as error:
                raise DataLoss(f"{name} is missing; {REMEDY}") from error
            _require_length(name, found, entry)

    def _pin(self, name: str) -> None:
        """Read or map a file to its place."""
        entry, begin = self._files[name], self._begins[name]
        try:
            descriptor = os.open(name, _OPEN, dir_fd=self._folder)
        except OSError as error:
            raise DataLoss(f"{name} cannot be opened: {error.strerror}; {REMEDY}") from error
        try:
            found = os.fstat(descriptor)
            _require_length(name, found, entry)
            if entry.bytes > IN_MEMORY:
                self._mapped[name] = _Identity.of(found)
                _map_at(self._region.ctypes.data + begin, descriptor, entry.bytes)
            elif os.preadv(descriptor, [self[name].data], 0) != entry.bytes:
                raise DataLoss(f"{name} was changed while it was opened; {REMEDY}")
        except OSError as error:
            raise DataLoss(f"{name} cannot be read: {error.strerror}; {REMEDY}") from error
        finally:
            os.close(descriptor)


def _within_shard(name: str) -> str:
    """Return the path of a file in its shard, or the whole path if it does not belong to a shard."""
    top, *rest = name.split("/", 2)
    return rest[1] if top == "shards" and len(rest) == 2 else name


def _require_length(name: str, found: os.stat_result, entry: FileEntry) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise DataLoss(f"{name}: expected an ordinary file, no link and no folder; {REMEDY}")
    if found.st_size != entry.bytes:
        raise DataLoss(f"{name}: expected {entry.bytes} bytes, got {found.st_size}; {REMEDY}")


def _map_at(address: int, descriptor: int, size: int) -> None:
    """Map the first `size` bytes of a file at an address."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    access = mmap.PROT_READ | mmap.PROT_WRITE
    if libc.mmap(address, size, access, _PRIVATE | _FIXED, descriptor, 0) != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
