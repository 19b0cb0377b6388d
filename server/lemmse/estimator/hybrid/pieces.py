"""Work on queries and blocks of cells in pieces of limited time, between which it can be stopped.

Compiled loops cannot be stopped. The more queries a call has, the more of them share a group that is loaded;
therefore a call is made shorter by fewer blocks of cells, and has fewer queries only if one block takes too
long for all of them.
"""

import time
from collections.abc import Callable
from threading import Event

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pieces", "Work"]

Work = Callable[[NDArray[np.int32], int, int], None]
"""A function that processes the queries with the given numbers, for blocks first … end − 1."""

_SECONDS = 0.04
"""Time that a piece should take."""
_FIRST = 256
"""Number of pairs of a query and a block in the first piece, whose time is not known."""
_CALLS = 8
"""Least number of pieces for a query, if there are as many blocks: some take much longer than others."""


class Pieces:
    """Work on some queries and the blocks 0 … blocks − 1, of which each query meets each in order.

    Parameters
    ----------
    queries : int32, (n,)
        Numbers of the queries.
    blocks : int
        Number of blocks, >= 1.
    """

    def __init__(self, queries: NDArray[np.int32], blocks: int) -> None:
        self._blocks, self._most = blocks, max(1, blocks // _CALLS)
        self._pairs = _FIRST
        self._rest = [(queries, 0)] if len(queries) else []

    @property
    def done(self) -> bool:
        """Whether no piece is left."""
        return not self._rest

    def run(self, work: Work, stopped: Event) -> None:
        """Call `work` for the pieces that are left, until `stopped` is set."""
        while self._rest and not stopped.is_set():
            some, first = self._rest.pop()
            if len(some) > self._pairs:
                self._rest.append((some[self._pairs :], first))
                some = some[: self._pairs]
            end = min(self._blocks, first + min(self._most, self._pairs // len(some)))
            start = time.perf_counter()
            work(some, first, end)
            seconds = time.perf_counter() - start
            if end < self._blocks:
                self._rest.append((some, end))
            limit = int(_SECONDS / seconds * len(some) * (end - first))
            self._pairs = max(1, min(2 * self._pairs, limit))
