"""The one catalogue of errors: the status that a client gets, and what of the message it may read.

EngineError (lemmse.index.errors)
├── Overloaded         more calls than the queue holds                  RESOURCE_EXHAUSTED
├── TooLarge           an answer that does not fit into one message     RESOURCE_EXHAUSTED
└── CannotListen       the address is taken or not this machine's       UNAVAILABLE
"""

import logging
import secrets

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from lemmse.index.errors import Cancelled, DataLoss, EngineError, InvalidArgument, NotFound, Unavailable
from lemmse.wire import MalformedMessage

__all__ = ["CannotListen", "Failure", "Overloaded", "TooLarge"]

_LOG = logging.getLogger(__name__)


class Overloaded(EngineError):
    """More calls are waiting than the queue holds."""

    code = "RESOURCE_EXHAUSTED"


class TooLarge(EngineError):
    """The answer does not fit into one message."""

    code = "RESOURCE_EXHAUSTED"


class CannotListen(EngineError):
    """The server cannot listen where it was told to."""

    code = "UNAVAILABLE"


# The first class that fits counts. Without a public message the error's own is written for the client;
# with one, the error's own goes to the log only, under a reference that the client gets too.
_CATALOGUE: tuple[tuple[type[Exception], grpc.StatusCode, str | None], ...] = (
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT, None),
    (MalformedMessage, grpc.StatusCode.INVALID_ARGUMENT, None),
    (NotFound, grpc.StatusCode.NOT_FOUND, None),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED, None),
    (TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED, None),
    (Cancelled, grpc.StatusCode.CANCELLED, None),
    (DataLoss, grpc.StatusCode.DATA_LOSS, "the index is damaged on the server"),
    (Unavailable, grpc.StatusCode.UNAVAILABLE, "the workers that hold the index do not answer"),
    (Exception, grpc.StatusCode.INTERNAL, "internal error"),
)


class Failure(Exception):
    """An error as the client sees it.

    Parameters
    ----------
    error : Exception
        What happened. What the client may not read of it is logged here.
    """

    def __init__(self, error: Exception) -> None:
        self.code, public = next(
            (code, public) for kind, code, public in _CATALOGUE if isinstance(error, kind)
        )
        message = str(error)
        if public is not None:
            reference = secrets.token_hex(4)
            _LOG.error("reference %s", reference, exc_info=error)
            message = f"{public} (reference {reference} in the server's log)"
        super().__init__(message)
        self.status = Status(code=self.code.value[0], message=message)
        if violation := _violation(error):
            detail = AnyMessage()
            detail.Pack(BadRequest(field_violations=[violation]))
            self.status.details.append(detail)


def _violation(error: Exception) -> BadRequest.FieldViolation | None:
    """Return which field was wrong, if one was."""
    if isinstance(error, InvalidArgument):
        return BadRequest.FieldViolation(field=error.argument, description=error.expected)
    if isinstance(error, MalformedMessage):
        return BadRequest.FieldViolation(field=error.field, description=error.expected)
    return None
