"""Cancellation of work, and the size of the blocks between which it is checked."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from lemmse.contract.errors import Cancelled

__all__ = ["QUERIES_OF_THREAD", "Cancel", "Turn", "is_due", "never", "query_block", "raise_if_cancelled"]

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
