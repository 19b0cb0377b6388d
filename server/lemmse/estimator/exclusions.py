"""Reconstructors of an index without some of its training images, for requests that exclude them.

Each holds a copy of the keys that remain, so that few are kept: a call for other images waits until one of
them is not in use. A server has its requests wait before they begin, see `lemmse.server.exclusive`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from lemmse.estimator.cancellation import Cancel, raise_if_cancelled

__all__ = ["MOST_KEPT", "Exclusions"]

T = TypeVar("T")

MOST_KEPT = 2
"""Largest number of sets of excluded images for which a copy of the keys is kept, or made."""
_PAUSE = 0.01
"""Time between two looks whether there is room, in seconds."""


@dataclass(slots=True)
class _Kept(Generic[T]):
    """What was made for a set of excluded images."""

    made: T | None = None
    """None while it is being made."""
    users: int = 1
    """Number of calls that use it."""


class Exclusions(Generic[T]):
    """What was made for the latest sets of excluded images. It is thread-safe.

    Parameters
    ----------
    make : callable
        Called as `make(images, cancelled)` with the numbers of the excluded images, ascending.
    """

    def __init__(self, make: Callable[[tuple[int, ...], Cancel], T]) -> None:
        self._make = make
        self._lock = Lock()
        self._kept: dict[tuple[int, ...], _Kept[T]] = {}  # the latest last

    def __contains__(self, images: tuple[int, ...]) -> bool:
        """Return whether it is there for these images, or is being made."""
        return images in self._kept

    @contextmanager
    def use(self, images: tuple[int, ...], cancelled: Cancel) -> Iterator[T]:
        """Yield what is made for these images; it is kept at least until the end of the `with` block.

        Raises
        ------
        Cancelled
            `cancelled()` was true; it is polled while this waits.
        """
        while (kept := self._take(images)) is None:
            time.sleep(_PAUSE)
            raise_if_cancelled(cancelled)
        try:
            if kept.made is None:
                kept.made = self._make(images, cancelled)
            yield kept.made
        finally:
            with self._lock:
                kept.users -= 1
                if kept.made is None:
                    del self._kept[images]

    def clear(self) -> None:
        """Forget all that is not in use."""
        with self._lock:
            self._kept = {images: kept for images, kept in self._kept.items() if kept.users}

    def _take(self, images: tuple[int, ...]) -> _Kept[T] | None:
        """Return what is there, or a place for what the caller makes; None if the caller has to wait."""
        with self._lock:
            kept = self._kept.pop(images, None)
            if kept is not None:
                self._kept[images] = kept
                if kept.made is None:
                    return None
                kept.users += 1
                return kept
            if len(self._kept) >= MOST_KEPT:
                idle = next((images for images, kept in self._kept.items() if not kept.users), None)
                if idle is None:
                    return None
                del self._kept[idle]
            self._kept[images] = kept = _Kept()
            return kept
