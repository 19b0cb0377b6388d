"""Checks of the arguments of a call that are no options."""

import math
from typing import Any

from lemmse.contract.errors import InvalidArgument

__all__ = ["as_name", "as_timeout"]

_FOREVER = 1e9
"""Seconds, 30 years; gRPC cannot count many more."""


def as_name(index: Any) -> str:
    """Return the name of an index; empty for None."""
    if index is not None and not isinstance(index, str):
        raise InvalidArgument.of("index", f"expected the name of an index, got {index!r}")
    return index or ""


def as_timeout(timeout: Any) -> float | None:
    """Return seconds; None where there is no limit."""
    if timeout is None:
        return None
    try:
        seconds = float(timeout)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of("timeout", f"expected a number of seconds, got {timeout!r}") from error
    if math.isnan(seconds):
        raise InvalidArgument.of("timeout", "expected a number of seconds, got nan")
    return seconds if seconds <= _FOREVER else None
