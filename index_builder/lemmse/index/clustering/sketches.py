"""Sketches of keys: leading coordinates in a byte each, and the norm of the others.

Along the principal axes, and in each leaf from the middle of what its keys are within. From a sketch follows
how near to a query its key can be at most; it is a part of a key that has many bytes, and of the others there
is none.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lemmse.index.storage.packing import Packed

__all__ = ["SKETCHED", "Sketch", "SketchedKeys", "pays", "sketched"]

SKETCHED = 24
"""Leading coordinates in a sketch."""
_FULL = np.float32(127)
_TINY = np.float32(1e-6)
"""Instead of the extent of a leaf of equal keys, to be divided by."""


def sketched(p_length: int) -> int:
    """Leading coordinates in the sketch of a key of length P."""
    return min(SKETCHED, p_length)


def pays(p_length: int, itemsize: int) -> bool:
    """Whether sketches of keys of P numbers of so many bytes are much less than these."""
    return p_length * itemsize >= 2 * SKETCHED


@dataclass(frozen=True, slots=True)
class SketchedKeys:
    """Sketches of n keys in G leaves that follow each other."""

    centre: NDArray[np.float32]
    """What the leading coordinates are counted from in each leaf, (G, R)."""
    step: NDArray[np.float32]
    """In these steps, (G,)."""
    off: NDArray[np.float32]
    """What the leading coordinates of a key of the leaf are off by at most, a distance, (G,)."""
    steps: NDArray[np.int8]
    """Of each key, (n, R)."""
    rest: NDArray[np.float32]
    """Norm of the other coordinates, (n, 1)."""

    @classmethod
    def of(cls, v: NDArray[np.float32], edges: NDArray[np.integer]) -> "SketchedKeys":
        """Sketch rotated keys (n, P); leaf g holds the keys edges[g] … edges[g + 1] − 1, one at least."""
        leading, first = sketched(v.shape[1]), edges[:-1]
        a, sizes = v[:, :leading], np.diff(edges)
        low, high = np.minimum.reduceat(a, first), np.maximum.reduceat(a, first)
        centre = np.float32(0.5) * (low + high)
        step = np.maximum(np.float32(0.5) * (high - low).max(axis=1), _TINY) / _FULL
        x = (a - np.repeat(centre, sizes, axis=0)) / np.repeat(step, sizes)[:, None]
        steps = np.rint(x)
        off = np.sqrt(np.maximum.reduceat(np.square(x - steps).sum(axis=1), first)) * step
        rest = np.linalg.norm(v[:, leading:], axis=1, keepdims=True)
        return cls(centre, step, off, steps.astype(np.int8), rest)

    @classmethod
    def join(cls, parts: "list[SketchedKeys]") -> "SketchedKeys":
        """Sketches of several such, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True, slots=True)
class Sketch:
    """Sketches of the keys of L leaves, packed."""

    centre: NDArray[np.float32]
    """As of `SketchedKeys`, (L, R)."""
    step: NDArray[np.float32]
    """(L,)."""
    off: NDArray[np.float32]
    """(L,)."""
    steps: Packed
    """(U, R)."""
    rest: Packed
    """(U, 1)."""
