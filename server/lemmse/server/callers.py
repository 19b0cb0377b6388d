"""Who calls: the identity to which the work of a call is charged."""

from contextvars import ContextVar
from typing import Any

import grpc

__all__ = ["CALLER", "caller"]

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""Name of the authenticated caller of the current call; empty if calls are not authenticated."""


def caller(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    """Return the name of the caller: the authenticated one, otherwise the address of the host.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> caller(SimpleNamespace(peer=lambda: "ipv4:10.0.0.7:41234"))
    'ipv4:10.0.0.7'
    """
    return CALLER.get() or context.peer().rpartition(":")[0]
