"""Validation of the arguments of a call that are not options."""

import math
import time
from collections.abc import Callable
from typing import Any

from lemmse.contract.errors import InvalidArgument

__all__ = ["as_name", "as_timeout", "time_left"]

_FOREVER = 1e9
"""Largest timeout in seconds, 30 years; gRPC cannot represent much longer ones."""


def as_name(index: Any) -> str:
    """Return the validated name of an index; an empty string for None."""
    if index is not None and not isinstance(index, str):
        raise InvalidArgument.of("index", f"expected the name of an index, got {index!r}")
    return index or ""


def as_timeout(timeout: Any) -> float | None:
    """Return a validated timeout in seconds; None for no limit."""
    if timeout is None:
        return None
    try:
        seconds = float(timeout)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of("timeout", f"expected a number of seconds, got {timeout!r}") from error
    if math.isnan(seconds):
        raise InvalidArgument.of("timeout", "expected a number of seconds, got nan")
    return seconds if seconds <= _FOREVER else None


def time_left(timeout: float | None) -> Callable[[], float | None]:
    """Return a function that returns what is left of a timeout, in seconds."""
    if timeout is None:
        return lambda: None
    end = time.monotonic() + timeout
    return lambda: end - time.monotonic()
