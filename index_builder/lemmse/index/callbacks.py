"""The progress callback of long operations."""

from collections.abc import Callable

__all__ = ["Notice", "Progress", "ignored", "silent"]

Progress = Callable[[str, int, int], None]
"""A callable `progress(stage, done, total)`, called when a stage begins and as it advances."""


def silent(stage: str, done: int, total: int) -> None:
    """Do nothing: a progress callback that reports nothing."""


Notice = Callable[[str], None]
"""A callable that is told of something that the user may want to know, in one line."""


def ignored(text: str) -> None:
    """Ignore a notice."""
