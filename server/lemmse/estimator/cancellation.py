"""Cancellation of work, and the size of the blocks between which it is checked."""

from collections.abc import Callable

import torch

from lemmse.contract.errors import Cancelled

__all__ = ["Cancel", "never", "query_block", "raise_if_cancelled"]

Cancel = Callable[[], bool]
"""A callable that is polled between tiles of work, and returns True once the answer is not needed."""


def never() -> bool:
    """Return False: the work is never cancelled."""
    return False


def raise_if_cancelled(cancelled: Cancel) -> None:
    """Raise Cancelled if `cancelled()` is true."""
    if cancelled():
        raise Cancelled("the request was cancelled or its deadline has passed")


def query_block(device: torch.device) -> int:
    """Return the number of queries to process at once: enough for all cores, or multiprocessors of a GPU."""
    return 512 * torch.get_num_threads() if device.type == "cpu" else 16_384
