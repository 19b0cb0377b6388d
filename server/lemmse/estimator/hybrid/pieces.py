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

__all__ = ["Work", "in_pieces"]

Work = Callable[[NDArray[np.int32], int, int], None]
"""A function that processes the queries with the given numbers, for blocks first … end − 1."""

_SECONDS = 0.04
"""Time that a piece should take."""
_FIRST = 256
"""Number of pairs of a query and a block in the first piece, whose time is not known."""
_CALLS = 8
"""Least number of pieces for a query, if there are as many blocks: some take much longer than others."""


def in_pieces(work: Work, queries: NDArray[np.int32], blocks: int, stopped: Event) -> None:
    """Call work for all queries and the blocks 0 … blocks − 1, in pieces, until `stopped` is set.

    The blocks of each query are processed in their order.
    """
    pairs, most = _FIRST, max(1, blocks // _CALLS)
    rest = [(queries, 0)]
    while rest and not stopped.is_set():
        some, first = rest.pop()
        if len(some) > pairs:
            rest.append((some[pairs:], first))
            some = some[:pairs]
        end = min(blocks, first + min(most, pairs // len(some)))
        start = time.perf_counter()
        work(some, first, end)
        seconds = time.perf_counter() - start
        if end < blocks:
            rest.append((some, end))
        pairs = max(1, min(2 * pairs, int(_SECONDS / seconds * len(some) * (end - first))))
