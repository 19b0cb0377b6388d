"""The index folder on disk: versions side by side, published whole or not at all.

    DIR/CURRENT              the version that readers open, one line
    DIR/1/manifest.json      see manifest.py; written last
    DIR/1/arrays.zarr        see store.py
    DIR/1/neighbours.faiss   see cells.py
    DIR/1/sources.json       where each training image came from

A build goes to a hidden folder beside DIR, is synced to disk, and renamed.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lemmse.index.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound
from lemmse.index.manifest import MANIFEST

__all__ = ["ARRAYS", "NEIGHBOURS", "SOURCES", "current_version", "publishing"]

ARRAYS = "arrays.zarr"
NEIGHBOURS = "neighbours.faiss"
SOURCES = "sources.json"
_CURRENT = "CURRENT"
_FIRST = "1"


@contextmanager
def publishing(out: Path) -> Iterator[Path]:
    """Give an empty folder for the first version of a new index; publish it when the block ends.

    When the block raises, nothing is left behind.

    Raises
    ------
    AlreadyExists
        There is something at `out`.
    InvalidArgument
        The folder that is to hold `out` is not there or cannot be written to.
    """
    _require_free(out)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.staging-", dir=out.parent))
    except OSError as error:
        raise InvalidArgument("out", f"expected a folder to write to, got {out}: {error.strerror}") from error
    try:
        version = staging / _FIRST
        version.mkdir()
        yield version
        (staging / _CURRENT).write_text(f"{_FIRST}\n")
        staging.chmod(0o755)
        _sync(staging)
        _require_free(out)
        staging.rename(out)
        _sync_entry(out.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def current_version(path: Path) -> tuple[str, Path]:
    """Name and folder of the version that readers open.

    Raises
    ------
    NotFound
        There is no index at `path`.
    DataLoss
        The version that CURRENT names is not there.
    """
    try:
        version = (path / _CURRENT).read_text(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        what = (
            "a folder without an index" if path.is_dir() else "a file" if path.exists() else "nothing there"
        )
        raise NotFound(f"index: expected an index folder, got {path}: {what}") from error
    folder = path / version
    if not version.isdigit() or not (folder / MANIFEST).is_file():
        raise DataLoss(
            f"{_CURRENT} names version {version!r}, which is not there; restore the index or build it again"
        )
    return version, folder


def _require_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise AlreadyExists(
            f"out: expected a new folder, got {out}, which is there; remove it or choose another"
        )


def _sync(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            _sync_entry(Path(root, name))
        _sync_entry(Path(root))


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
