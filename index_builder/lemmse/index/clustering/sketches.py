"""Sketches of keys: coarse coordinates, from which a lower bound of the distance to a query follows.

A sketch is a point with the same or a smaller distance to every other sketch than their vectors have. Its
first coordinates are the leading ones along the principal axes, and its last is the norm of the others, which
differ by no more than the vectors do. There are two levels: NEAR coordinates, and MORE of them for the keys
that these cannot rule out. Coordinates are stored in a byte each, as steps from a corner of the box of the
cell, so that one product of bytes compares a query with all keys of a cell:

    ‖a − c‖² = ‖a‖² − 2 (Σ a c − ½ ‖c‖²)

for a query a and a key c in steps from the centre of the box.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lemmse.index.clustering.moments import Basis
from lemmse.index.ranges import split_ranges
from lemmse.index.storage.packing import Packed

__all__ = ["ALL", "MIDDLE", "NEAR", "CellSketches", "Sketch", "sketch_cells", "sketch_points"]

NEAR = 16
"""Coordinates of the first level: the leading NEAR − 1 and the norm of the others."""
ALL = 32
"""Coordinates of both levels: those of the first, further ones up to the leading ALL − 2, and the norm of the
others, which replaces that of the first level."""
MIDDLE = 128
"""The stored number that stands for the centre of the box."""
_FULL = np.float32(127)
_TINY = np.float32(1e-6)
"""Lower limit of the extent of a cell, which is a divisor."""
_WORD = 4
"""Bytes in a word: the unit of the products of bytes."""


def sketch_points(v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the points of sketches of rotated keys or queries, (n, P), before rounding, (n, ALL).

    Missing coordinates of short keys are 0.
    """
    points = np.zeros((len(v), ALL), np.float32)
    for first, end, norm in ((0, NEAR - 1, NEAR - 1), (NEAR - 1, ALL - 2, ALL - 1)):
        some = v[:, first:end]
        at = first if first == 0 else NEAR
        points[:, at : at + some.shape[1]] = some
        points[:, norm] = np.linalg.norm(v[:, end:], axis=1)
    return points


@dataclass(frozen=True, slots=True)
class CellSketches:
    """Sketches of the n keys of G consecutive cells."""

    centre: NDArray[np.float32]
    """Centre of the box of the points in each cell, (G, ALL)."""
    step: NDArray[np.float32]
    """Quantization step in each cell, (G, 1)."""
    off: NDArray[np.float32]
    """Largest rounding error in each cell, as a distance in steps, at the first level and at the second,
    (G, 2)."""
    near: NDArray[np.int32]
    """Of each key: −½ ‖c‖² of the first level, rounded up, and its coordinates, 4 in a word, (n, 5)."""
    more: NDArray[np.int32]
    """The same of the second level, with the coordinates that the first does not have, (n, 5)."""

    @classmethod
    def of(cls, v: NDArray[np.float32], cell_keys: NDArray[np.integer]) -> "CellSketches":
        """Return sketches of rotated keys, (n, P); cell g has keys cell_keys[g] … cell_keys[g + 1] − 1."""
        points, first, sizes = sketch_points(v), cell_keys[:-1], np.diff(cell_keys)
        low, high = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
        centre = np.float32(0.5) * (low + high)
        step = np.maximum(np.float32(0.5) * (high - low).max(axis=1, keepdims=True), _TINY) / _FULL
        x = (points - np.repeat(centre, sizes, axis=0)) / np.repeat(step, sizes, axis=0)
        c = np.rint(x)
        levels = _level(np.square(x - c)), _level(np.square(c))
        off = np.sqrt(np.maximum.reduceat(levels[0], first))
        half = -np.floor(levels[1] / 2).astype(np.int32)  # (n, 2)
        words = (c + MIDDLE).astype(np.uint8).view(np.int32)
        near, more = words[:, : NEAR // _WORD], words[:, NEAR // _WORD :]
        return cls(
            centre, step, off, np.column_stack([half[:, 0], near]), np.column_stack([half[:, 1], more])
        )

    @classmethod
    def join(cls, parts: "list[CellSketches]") -> "CellSketches":
        """Return the sketches of several blocks, in order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def _level(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums of squared coordinates of the first level and of the second, (n, 2)."""
    first, norm = squares[:, : NEAR - 1].sum(axis=1), squares[:, NEAR - 1]
    return np.column_stack([first + norm, first + squares[:, NEAR:].sum(axis=1)])


def sketch_cells(
    keys: Callable[[int, int], NDArray[np.float32]],
    cell_keys: NDArray[np.integer],
    *,
    basis: Basis,
    most: int,
) -> CellSketches:
    """Return the sketches of keys.

    Parameters
    ----------
    keys : callable
        Called as `keys(start, stop)`; returns keys, (n, P).
    cell_keys : int, (G + 1,)
        Cell g has keys cell_keys[g] … cell_keys[g + 1] − 1, at least one.
    basis : Basis
        The PCA basis of the keys.
    most : int
        Largest number of keys in memory at a time, unless a single cell has more.
    """
    parts = []
    for first, end in split_ranges(cell_keys, most):
        start, stop = cell_keys[[first, end]].tolist()
        parts.append(CellSketches.of(basis.rotate(keys(start, stop)), cell_keys[first : end + 1] - start))
    return CellSketches.join(parts)


@dataclass(frozen=True, slots=True)
class Sketch:
    """Sketches of the U keys of G cells, packed; fields as in `CellSketches`."""

    centre: NDArray[np.float32]
    """(G, ALL)."""
    step: NDArray[np.float32]
    """(G, 1)."""
    off: NDArray[np.float32]
    """(G, 2)."""
    near: Packed
    """(U, 5)."""
    more: Packed
    """(U, 5)."""
