"""Rows of numbers packed for sums over many of them at once: LANES rows side by side, number after number.

A run of LANES rows of length L is L·LANES numbers that lie together: the first number of each row, the second
of each, and so on. The last run is filled up with zeros.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LANES", "Packed", "aligned", "pack"]

LANES = 32
"""Rows side by side."""
_LINE = 16
"""Numbers of four bytes in a line of the cache."""


def pack(rows: NDArray[Any]) -> NDArray[Any]:
    """Pack rows (n, L) into runs, (⌈n / LANES⌉, L, LANES).

    Examples
    --------
    >>> pack(np.arange(66).reshape(33, 2))[:, :, :3].tolist()
    [[[0, 2, 4], [1, 3, 5]], [[64, 0, 0], [65, 0, 0]]]
    """
    count, length = rows.shape
    packed = np.zeros((-(-count // LANES), length, LANES), rows.dtype)
    whole = count // LANES
    packed[:whole] = rows[: whole * LANES].reshape(whole, LANES, length).swapaxes(1, 2)
    if whole < len(packed):
        packed[whole, :, : count - whole * LANES] = rows[whole * LANES :].T
    return packed


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An array that starts a line of the cache: vectors across two take twice as long to load."""
    size = prod(shape)
    space = np.empty(size + _LINE, np.float32)
    first = -space.ctypes.data % (4 * _LINE) // 4
    return space[first : first + size].reshape(shape)


@dataclass(frozen=True)
class Packed:
    """Packed rows, in parts that each begin a run of their own."""

    values: NDArray[Any]
    """The numbers of all parts, and what lies between them, flat."""
    length: int
    """Numbers of a row, L."""
    first_row: NDArray[np.int64]
    """First row of each part, and the number of rows, (parts + 1,)."""
    begins: NDArray[np.int64]
    """Where the numbers of each part begin, (parts,)."""

    @classmethod
    def of(cls, blocks: Iterable[NDArray[Any]]) -> "Packed":
        """Rows (n, L), packed block by block; all blocks of them but the last hold a multiple of LANES."""
        count, packed = 0, []
        for rows in blocks:
            packed.append(pack(rows))
            count += len(rows)
        values = packed[0] if len(packed) == 1 else np.concatenate(packed)
        return cls(values.reshape(-1), values.shape[1], np.array([0, count]), np.zeros(1, np.int64))

    def run_of(self, row: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the runs of rows begin in the values, and which of its run each row is."""
        part = np.searchsorted(self.first_row[1:-1], row, side="right")
        run, lane = np.divmod(row - self.first_row[part], LANES)
        return self.begins[part] + run * (self.length * LANES), lane

    def place(self, row: int) -> tuple[int, int]:
        """Where the run of a row begins, and which of it the row is."""
        run, lane = self.run_of(np.array([row]))
        return int(run[0]), int(lane[0])

    def parts(self, start: int, stop: int) -> Sequence[tuple[int, int]]:
        """The rows start … stop − 1 cut where parts meet: the first and the last + 1 of each piece."""
        cuts = [start, *(int(row) for row in self.first_row if start < row < stop), stop]
        return [(a, b) for a, b in pairwise(cuts) if a < b]

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """The rows start … stop − 1, (stop − start, L)."""
        pieces = []
        for first, end in self.parts(start, stop):
            begin, lane = self.place(first)
            runs = -(-(lane + end - first) // LANES)
            block = self.values[begin : begin + runs * self.length * LANES].reshape(runs, self.length, LANES)
            pieces.append(block.swapaxes(1, 2).reshape(-1, self.length)[lane : lane + end - first])
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces or [np.empty((0, self.length), self.values.dtype)])
