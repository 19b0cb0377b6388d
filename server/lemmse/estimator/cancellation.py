"""Cancellation of work, and the size of the blocks between which it is checked."""

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch

from lemmse.contract.errors import Cancelled

__all__ = [
    "QUERIES_OF_THREAD",
    "Cancel",
    "Turn",
    "even_blocks",
    "is_due",
    "never",
    "query_block",
    "raise_if_cancelled",
]

QUERIES_OF_THREAD = 512
"""Number of queries that a thread of a CPU sums at once."""

Cancel = Callable[[], bool]
"""A callable that is polled between tiles of work, and returns True once the answer is not needed."""


@runtime_checkable
class Turn(Protocol):
    """A Cancel by which work takes turns with other work: a poll may wait until it is this work's turn."""

    def __call__(self) -> bool:
        """Let other work have its turn if it is due, and return True once the answer is not needed."""
        ...

    def is_due(self) -> bool:
        """Return whether the next poll may wait, or is True."""
        ...


def is_due(cancelled: Cancel) -> bool:
    """Return whether a caller of other threads should stop these and poll."""
    return cancelled.is_due() if isinstance(cancelled, Turn) else cancelled()


def never() -> bool:
    """Return False: the work is never cancelled."""
    return False


def raise_if_cancelled(cancelled: Cancel) -> None:
    """Raise Cancelled if `cancelled()` is true."""
    if cancelled():
        raise Cancelled("the request was cancelled or its deadline has passed")


def query_block(device: torch.device) -> int:
    """Return the number of queries to process at once: enough for all cores, or multiprocessors of a GPU."""
    return QUERIES_OF_THREAD * torch.get_num_threads() if device.type == "cpu" else 4096


def even_blocks(count: int, most: int) -> list[slice]:
    """Return the division of a number of queries into blocks that are about equally long.

    Without a short block at the end, all matrix products of large images have many rows: BLAS adds those of
    few rows in another order, and the sums of a pixel would depend on the size of the image.

    Examples
    --------
    >>> even_blocks(10, 4)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    blocks = max(1, -(-count // most))
    edges = [count * i // blocks for i in range(blocks + 1)]
    return [slice(*pair) for pair in pairwise(edges)]
