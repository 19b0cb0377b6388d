"""The index folder: versions side by side, each published as a whole.

    DIR/CURRENT              the version that readers open, one line
    DIR/1/manifest.json      see manifest.py; written last
    DIR/1/arrays.zarr        see zarr_store.py
    DIR/1/shards/…           the keys, see shards.py
    DIR/1/sources.json       the origin of each training image

A build works in a hidden folder beside DIR, whose result is flushed to disk and renamed.
"""

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lemmse.contract.errors import (
    AlreadyExists,
    DataLoss,
    InvalidArgument,
    LemmseError,
    NotFound,
    UnsupportedFormat,
)
from lemmse.index.storage.durable import sync, sync_tree, write_atomically
from lemmse.index.storage.manifest import MANIFEST, read_small

__all__ = [
    "ARRAYS",
    "DEPTHS",
    "SOURCES",
    "STAGED",
    "about_index",
    "clear",
    "current_version",
    "folder_of",
    "is_published",
    "next_version",
    "publish",
    "set_current_version",
    "staging",
]

ARRAYS = "arrays.zarr"
DEPTHS = "images/depths"
"""The array with the number of planes of each volume."""
SOURCES = "sources.json"
STAGED = "index"
"""Subfolder of the folder of a build, with the files to publish."""
_CURRENT = "CURRENT"
_CURRENT_BYTES = 100
_VERSION = re.compile("[1-9][0-9]{0,8}")
_LOCK = "lock"


@contextmanager
def staging(out: Path, *, update: bool) -> Iterator[Path]:
    """Lock and yield the folder beside an index in which a build works, with the files of an earlier build.

    If the folder was created here and the `with` block raises a LemmseError, it is removed.

    Raises
    ------
    AlreadyExists
        `out` exists and `update` is False, or another process is building there.
    InvalidArgument
        The parent folder of `out` cannot be created or written to.
    """
    folder = out.parent / f".{out.name}.building"
    if not update:
        _require_free(out)
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("a")
    except OSError as error:
        raise InvalidArgument.of(
            "out", f"expected a folder to write to, got {out}: {error.strerror}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyExists(f"out: another process builds {out}; wait for it, or end it") from error
        try:
            yield folder
        except LemmseError:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def publish(folder: Path, out: Path, version: str) -> None:
    """Make a finished version the current one, and remove the folder of its build.

    At any time, readers see either the old or the new version. An interrupted call can be repeated.
    """
    staged = folder / STAGED
    if not out.exists():
        (staged / _CURRENT).write_text(f"{version}\n")
        sync_tree(staged)
        _require_free(out)
        staged.rename(out)
    else:
        if (staged / version).exists():
            sync_tree(staged / version)
            (staged / version).rename(out / version)
            sync(out)
        write_atomically(out / _CURRENT, f"{version}\n")
        sync(out)
    sync(out.parent)
    shutil.rmtree(folder, ignore_errors=True)


def is_published(path: Path, version: str) -> bool:
    """Return whether the current version of an index is this one or a later one."""
    try:
        current = (path / _CURRENT).read_text().strip()
    except OSError:
        return False
    return current.isdigit() and int(current) >= int(version)


def clear(folder: Path) -> None:
    """Remove everything except the lock from the folder of a build."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()


def next_version(path: Path) -> str:
    """Return the name of the next version of an index."""
    versions = [int(entry.name) for entry in path.iterdir() if entry.name.isdigit()] if path.exists() else []
    return str(max(versions, default=0) + 1)


def current_version(path: Path) -> tuple[str, Path]:
    """Return the name and the folder of the current version of an index.

    Raises
    ------
    NotFound
        There is no index at `path`.
    DataLoss
        The version named by CURRENT does not exist.
    """
    try:
        version = read_small(path / _CURRENT, _CURRENT_BYTES).decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError) as error:
        what = (
            "a folder without an index" if path.is_dir() else "a file" if path.exists() else "nothing there"
        )
        raise NotFound(f"index: expected an index folder, got {path}: {what}") from error
    except ValueError as error:
        raise DataLoss(
            f"{path / _CURRENT} is damaged: {error}; write the number of a version to it"
        ) from error
    try:
        return version, folder_of(path, version)
    except NotFound as error:
        raise DataLoss(
            f"{path / _CURRENT} names version {version!r}, which is not there; restore the index or build it "
            "again"
        ) from error


def folder_of(path: Path, version: str) -> Path:
    """Return the folder of a version of an index.

    Raises
    ------
    NotFound
        There is no such version.
    """
    folder = path / version
    if not _VERSION.fullmatch(version) or folder.is_symlink() or not (folder / MANIFEST).is_file():
        raise NotFound(f"version: expected a version of index {path.name!r}, got {version[:20]!r}")
    return folder


def set_current_version(path: Path, version: str) -> None:
    """Make a version of an index the one that readers open, in one step."""
    write_atomically(path / _CURRENT, f"{version}\n")
    sync(path)


def _require_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise AlreadyExists(
            f"out: expected a new folder, got {out}, which is there; remove it, choose another, or add to an "
            f"index that is there by --update"
        )


@contextmanager
def about_index(name: str, version: str) -> Iterator[None]:
    """Name the index in the messages of DataLoss and UnsupportedFormat errors of the `with` block."""
    try:
        yield
    except (DataLoss, UnsupportedFormat) as error:
        raise type(error)(f"index {name!r} version {version}: {error}") from error
