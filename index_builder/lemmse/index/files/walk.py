"""Find the files of a folder and its subfolders, also through links, each real folder once."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Found", "find_files"]


@dataclass(slots=True)
class Found:
    """What is in a folder; all paths are relative to it, and sorted."""

    files: list[Path] = field(default_factory=list)
    """What was looked for."""
    others: list[Path] = field(default_factory=list)
    """Other files, but not hidden ones."""
    links: list[Path] = field(default_factory=list)
    """Links to folders that are also reached otherwise, such as loops; they are not followed."""


def find_files(
    folder: Path,
    wanted: Callable[[Path], bool],
    *,
    is_leaf: Callable[[Path], bool] = lambda path: False,
    without: Path | None = None,
) -> Found:
    """Return the files below a folder; hidden files and folders are left out.

    Parameters
    ----------
    folder : Path
        The folder.
    wanted : callable
        Returns whether a file is looked for.
    is_leaf : callable
        Returns whether a folder counts as a file that is looked for.
    without : Path, optional
        A folder to leave out.

    Raises
    ------
    OSError
        A folder cannot be read.
    """
    found = Found()
    seen = {_identity(folder)}
    if without is not None and without.exists():
        seen.add(_identity(without))
    linked: list[Path] = []
    _walk(folder, Path(), wanted, is_leaf, found, seen, linked)
    while linked:  # after the real folders, so that a folder has its real name where it has one
        below = linked.pop(0)
        if _identity(folder / below) in seen:
            found.links.append(below)
            continue
        seen.add(_identity(folder / below))
        _walk(folder, below, wanted, is_leaf, found, seen, linked)
    for paths in (found.files, found.others, found.links):
        paths.sort(key=lambda path: path.parts)
    return found


def _walk(
    folder: Path,
    below: Path,
    wanted: Callable[[Path], bool],
    is_leaf: Callable[[Path], bool],
    found: Found,
    seen: set[tuple[int, int]],
    linked: list[Path],
) -> None:
    pending = [below]
    while pending:
        place = pending.pop()
        with os.scandir(folder / place) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = place / entry.name
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    (found.files if wanted(path) and entry.is_file() else found.others).append(path)
                elif is_leaf(folder / path):
                    found.files.append(path)
                elif entry.is_symlink():
                    linked.append(path)
                elif _identity(folder / path) not in seen:
                    seen.add(_identity(folder / path))
                    pending.append(path)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
