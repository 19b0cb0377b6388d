"""Packing of rows for SIMD: LANES rows side by side, interleaved element by element.

A run of LANES rows of length L is L·LANES consecutive elements: the first element of each row, then the
second of each, and so on. The last run is padded with zeros.
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
"""Rows of a run."""
_LINE = 16
"""Number of four-byte elements in a cache line."""


def pack(rows: NDArray[Any]) -> NDArray[Any]:
    """Return rows, (n, L), packed into runs, (⌈n / LANES⌉, L, LANES).

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
    """Return an uninitialized float32 array aligned to a cache line, since loads across lines are slower."""
    size = prod(shape)
    space = np.empty(size + _LINE, np.float32)
    first = -space.ctypes.data % (4 * _LINE) // 4
    return space[first : first + size].reshape(shape)


@dataclass(frozen=True)
class Packed:
    """Packed rows, in one or more parts, each of which begins a run."""

    values: NDArray[Any]
    """The elements of all parts, with gaps in between, flat."""
    length: int
    """Length of a row, L."""
    first_row: NDArray[np.int64]
    """First row of each part, followed by the number of rows, (parts + 1,)."""
    begins: NDArray[np.int64]
    """Position in `values` of the first element of each part, (parts,)."""

    @classmethod
    def of(cls, blocks: Iterable[NDArray[Any]]) -> "Packed":
        """Return blocks of rows, (n, L), packed as one part; n is a multiple of LANES except in the last."""
        count, packed = 0, []
        for rows in blocks:
            packed.append(pack(rows))
            count += len(rows)
        values = packed[0] if len(packed) == 1 else np.concatenate(packed)
        return cls(values.reshape(-1), values.shape[1], np.array([0, count]), np.zeros(1, np.int64))

    def run_of(self, row: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the position in `values` of the run of each row, and the index of the row in its run."""
        part = np.searchsorted(self.first_row[1:-1], row, side="right")
        run, lane = np.divmod(row - self.first_row[part], LANES)
        return self.begins[part] + run * (self.length * LANES), lane

    def place(self, row: int) -> tuple[int, int]:
        """Return the position in `values` of the run of a row, and the index of the row in its run."""
        run, lane = self.run_of(np.array([row]))
        return int(run[0]), int(lane[0])

    def parts(self, start: int, stop: int) -> Sequence[tuple[int, int]]:
        """Return the ranges (first, end) that rows start … stop − 1 occupy in each part."""
        cuts = [start, *(int(row) for row in self.first_row if start < row < stop), stop]
        return [(a, b) for a, b in pairwise(cuts) if a < b]

    def section(self, start: int, stop: int) -> "Packed":
        """Return rows start … stop − 1, where row `start` begins a run, without a copy."""
        firsts = [first for first, _ in self.parts(start, stop)]
        begins = self.run_of(np.array(firsts))[0]
        return Packed(self.values, self.length, np.array([*firsts, stop]) - start, begins)

    def take(self, row: NDArray[np.integer]) -> NDArray[Any]:
        """Return the rows with the given numbers, unpacked, (len(row), L)."""
        run, lane = self.run_of(row)
        found: NDArray[Any] = self.values[(run + lane)[:, None] + np.arange(self.length) * LANES]
        return found

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start … stop − 1, unpacked, (stop − start, L)."""
        blocks = []
        for first, end in self.parts(start, stop):
            begin, lane = self.place(first)
            runs = -(-(lane + end - first) // LANES)
            runs_of_part = self.values[begin : begin + runs * self.length * LANES].reshape(
                runs, self.length, LANES
            )
            blocks.append(runs_of_part.swapaxes(1, 2).reshape(-1, self.length)[lane : lane + end - first])
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks or [np.empty((0, self.length), self.values.dtype)])
