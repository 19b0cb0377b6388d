"""Sketches of keys: leading coordinates in one byte each, and the norm of the others.

Coordinates are along the principal axes, relative to the centre of the box of the leaf. A sketch gives a
lower bound of the distance between its key and a query. Sketches are stored if they are much smaller than
keys.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lemmse.index.storage.packing import Packed

__all__ = ["SKETCHED", "KeySketches", "Sketch", "sketched", "worth_sketching"]

SKETCHED = 24
"""Number of leading coordinates in a sketch."""
_FULL = np.float32(127)
_TINY = np.float32(1e-6)
"""Lower limit of the extent of a leaf, which is a divisor."""


def sketched(p_length: int) -> int:
    """Return the number of leading coordinates in the sketch of a key of length P."""
    return min(SKETCHED, p_length)


def worth_sketching(p_length: int, itemsize: int) -> bool:
    """Return whether keys of P elements of `itemsize` bytes are at least twice as large as their sketches."""
    return p_length * itemsize >= 2 * SKETCHED


@dataclass(frozen=True, slots=True)
class KeySketches:
    """Sketches of the n keys of G consecutive leaves."""

    centre: NDArray[np.float32]
    """Origin of the leading coordinates in each leaf, (G, R)."""
    step: NDArray[np.float32]
    """Quantization step of the leading coordinates in each leaf, (G,)."""
    off: NDArray[np.float32]
    """Largest rounding error in each leaf, as a distance in the leading coordinates, (G,)."""
    steps: NDArray[np.int8]
    """Leading coordinates of each key, in steps, (n, R)."""
    rest: NDArray[np.float32]
    """Norm of the other coordinates of each key, (n, 1)."""

    @classmethod
    def of(cls, v: NDArray[np.float32], leaf_keys: NDArray[np.integer]) -> "KeySketches":
        """Return sketches of rotated keys, (n, P); leaf g has keys leaf_keys[g] … leaf_keys[g + 1] − 1."""
        leading, first = sketched(v.shape[1]), leaf_keys[:-1]
        a, sizes = v[:, :leading], np.diff(leaf_keys)
        low, high = np.minimum.reduceat(a, first), np.maximum.reduceat(a, first)
        centre = np.float32(0.5) * (low + high)
        step = np.maximum(np.float32(0.5) * (high - low).max(axis=1), _TINY) / _FULL
        x = (a - np.repeat(centre, sizes, axis=0)) / np.repeat(step, sizes)[:, None]
        steps = np.rint(x)
        off = np.sqrt(np.maximum.reduceat(np.square(x - steps).sum(axis=1), first)) * step
        rest = np.linalg.norm(v[:, leading:], axis=1, keepdims=True)
        return cls(centre, step, off, steps.astype(np.int8), rest)

    @classmethod
    def join(cls, parts: "list[KeySketches]") -> "KeySketches":
        """Return the sketches of several blocks, in order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True, slots=True)
class Sketch:
    """Sketches of the U keys of L leaves, packed."""

    centre: NDArray[np.float32]
    """Origin of the leading coordinates in each leaf, (L, R)."""
    step: NDArray[np.float32]
    """Quantization step of the leading coordinates in each leaf, (L,)."""
    off: NDArray[np.float32]
    """Largest rounding error in each leaf, as a distance in the leading coordinates, (L,)."""
    steps: Packed
    """Leading coordinates of each key, in steps, (U, R)."""
    rest: Packed
    """Norm of the other coordinates of each key, (U, 1)."""
