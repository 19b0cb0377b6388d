"""Files that are there whole or not at all, and that stay once they are."""

import os
from pathlib import Path

__all__ = ["sync", "sync_tree", "write_atomically"]


def write_atomically(path: Path, text: str) -> None:
    """Write a small file: whoever reads it finds what was there, or all of it."""
    staged = path.with_name(f".{path.name}")
    staged.write_text(text)
    sync(staged)
    staged.replace(path)


def sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have the disk hold all below a folder."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync(Path(root, name))
        sync(Path(root))
