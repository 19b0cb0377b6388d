"""Identifiers of calls, which clients may choose, and which answers, errors and log lines carry."""

import re
import secrets
from contextvars import ContextVar

__all__ = ["HEADER", "REQUEST_ID", "choose"]

HEADER = "x-request-id"
"""Metadata key of the identifier, in requests and in trailing metadata."""

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Identifier of the call that is being answered; empty outside of calls."""

_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BYTES = 8


def choose(asked: object) -> str:
    r"""Return the identifier that a client asked for, or a new one if that is missing or has another form.

    Examples
    --------
    >>> choose("batch-7.image-3")
    'batch-7.image-3'
    >>> len(choose("two\nlines"))
    16
    """
    if isinstance(asked, str) and _FORM.fullmatch(asked):
        return asked
    return secrets.token_hex(_BYTES)
