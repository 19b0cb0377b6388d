"""What a client reads of an error: its status, with a message without the server's internals."""

import logging
import secrets

import grpc
from google.rpc.status_pb2 import Status

from lemmse.contract.errors import BY_CODE, Internal, LemmseError
from lemmse.contract.status import to_status

__all__ = ["Failure"]

_LOG = logging.getLogger(__name__)

_SHOWN = {"CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
"""Codes whose messages are written for the client; those of all others are for the log only."""
_PUBLIC = {
    "DATA_LOSS": "the index is damaged on the server",
    "INTERNAL": "internal error",
    "UNAVAILABLE": "the workers that hold the index do not answer",
}
"""What the client reads of the other codes; of one that is not here, INTERNAL."""


class Failure(Exception):
    """An error as the client reads it.

    Parameters
    ----------
    error : Exception
        What happened. What the client may not read of it is logged, with a reference that the client gets.
    """

    def __init__(self, error: Exception) -> None:
        seen = error if isinstance(error, LemmseError) else Internal(str(error))
        if seen.code not in _SHOWN:
            reference = secrets.token_hex(4)
            _LOG.error("reference %s", reference, exc_info=error)
            code = seen.code if seen.code in _PUBLIC else Internal.code
            seen = BY_CODE[code](f"{_PUBLIC[code]} (reference {reference} in the server's log)")
        super().__init__(str(seen))
        self.code = grpc.StatusCode[seen.code]
        self.status: Status = to_status(seen)
