"""The errors that clients receive: a status, and a message without internals of the server."""

import logging
import secrets

import grpc
from google.rpc.status_pb2 import Status

from lemmse.contract.errors import BY_CODE, Internal, LemmseError, Unavailable
from lemmse.contract.status import to_status

__all__ = ["Ended", "Failure"]

_LOG = logging.getLogger(__name__)

_SHOWN = {
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
}
"""Codes whose messages are written for clients; the messages of all other codes go to the log only."""
_PUBLIC = {
    "DATA_LOSS": "the index is damaged on the server",
    "INTERNAL": "internal error",
    "UNAVAILABLE": "the workers that hold the index do not answer",
}
"""Messages for clients, by code, for the other codes; codes not listed are reported as INTERNAL."""


class Ended(Unavailable):
    """The server ends a call that could go on in another one. Its message is for clients."""


class Failure(Exception):
    """An error in the form that the client receives.

    Parameters
    ----------
    error : Exception
        The original error. If its message is not for clients, it is logged under a reference that is sent to
        the client.
    """

    def __init__(self, error: Exception) -> None:
        seen = error if isinstance(error, LemmseError) else Internal(str(error))
        if seen.code not in _SHOWN and not isinstance(seen, Ended):
            reference = secrets.token_hex(4)
            _LOG.error("reference %s", reference, exc_info=error)
            code = seen.code if seen.code in _PUBLIC else Internal.code
            seen = BY_CODE[code](f"{_PUBLIC[code]} (reference {reference} in the server's log)")
        super().__init__(str(seen))
        self.code = grpc.StatusCode[seen.code]
        self.status: Status = to_status(seen)
