"""How work is cut up and how it is stopped."""

from collections.abc import Callable

import torch

from lemmse.contract.errors import Cancelled

__all__ = ["Cancel", "never", "query_block", "stop_if"]

Cancel = Callable[[], bool]
"""Polled between tiles of work; true when nobody waits for the answer any more."""


def never() -> bool:
    """Nobody cancels."""
    return False


def stop_if(cancelled: Cancel) -> None:
    """Raise Cancelled when the work is no longer wanted."""
    if cancelled():
        raise Cancelled("the request was cancelled or its deadline has passed")


def query_block(device: torch.device) -> int:
    """Queries to treat together: what fills all cores, and on a GPU all multiprocessors."""
    return 512 * torch.get_num_threads() if device.type == "cpu" else 16_384
