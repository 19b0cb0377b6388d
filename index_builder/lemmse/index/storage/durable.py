"""Atomic and durable writing of files."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lemmse.contract.replacing import replacing

__all__ = ["sync", "sync_tree", "write_atomically"]

_AT_ONCE = 16
"""Number of files to flush at once: each flush waits for the disk, which serves several together."""


def write_atomically(path: Path, text: str) -> None:
    """Write a small file such that readers see either the old or the new content.

    Of several processes that do so at the same time, the last one decides.
    """
    with replacing(path) as staged:
        staged.write_text(text)
        sync(staged)


def sync(path: Path) -> None:
    """Flush a file, or the directory entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder and everything below it to disk."""
    paths = [Path(root, name) for root, _, files in os.walk(folder) for name in (*files, "")]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(sync, paths):
            pass
