"""How long work tells how far it is."""

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with the stage, what is done of it, and its total: as the stage begins, and as it goes on."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""
