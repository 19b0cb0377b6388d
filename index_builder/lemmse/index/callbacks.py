"""The progress callback of long operations."""

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""A callable `progress(stage, done, total)`, called when a stage begins and as it advances."""


def silent(stage: str, done: int, total: int) -> None:
    """Do nothing: a progress callback that reports nothing."""
