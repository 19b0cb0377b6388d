"""The progress callback of long operations."""

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` when a stage begins and while it runs."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore the progress."""
