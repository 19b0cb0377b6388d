"""An index without some of its training images, for requests that exclude them.

What sums over the keys that remain holds a copy of them, so that few are kept: a call for other images waits
until one of them is not in use. A server has its requests wait before they begin, see
`lemmse.server.exclusive`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.cancellation import Cancel, raise_if_cancelled
from lemmse.index import Index
from lemmse.index.reading import HeldOutView, find_images, leave_out

__all__ = ["MOST_KEPT", "Exclusions", "excluded_images", "index_without"]

T = TypeVar("T")

MOST_KEPT = 2
"""Largest number of sets of excluded images for which a copy of the keys is kept, or made."""
_PAUSE = 0.01
"""Time between two looks whether there is room, in seconds."""


def excluded_images(index: Index, names: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of the training images that names stand for, ascending.

    Raises
    ------
    InvalidArgument
        A name stands for no image, or no image would remain.
    """
    if not names:
        return ()
    images = find_images(index, "exclude", names, numbers=True)
    if len(images) == index.manifest.images:
        raise InvalidArgument.of(
            "exclude", f"expected some images of {index.name!r} to remain, got all {len(images)}"
        )
    return tuple(images.tolist())


def index_without(index: Index, images: tuple[int, ...], cancelled: Cancel) -> HeldOutView:
    """Return the index without the images with these numbers.

    Raises
    ------
    InvalidArgument
        Without them there are no keys, or none for a pattern of the mask of the index.
    Cancelled
        `cancelled()` was true.
    """
    view = leave_out(index, np.array(images), refits=False)
    raise_if_cancelled(cancelled)
    strata = [np.diff(one.cell_keys[index.stratum_cells]) for one in (view, index)]
    if not view.manifest.keys or (index.strata.exclusive and (strata[0] == 0)[strata[1] > 0].any()):
        raise InvalidArgument.of(
            "exclude",
            f"expected patches of all patterns to remain, got {len(images)} images without which "
            f"{index.name!r} lacks some",
        )
    return view


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
