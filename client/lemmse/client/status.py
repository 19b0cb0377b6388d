"""From what gRPC reports to the client's errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import grpc
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from lemmse.client.errors import BY_CODE, Internal, LemmseError, Unknown, Violation
from lemmse.wire import MalformedMessage

__all__ = ["from_status", "rpc_errors"]

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def from_status(status: Status) -> LemmseError:
    """Return the error that a status describes.

    Examples
    --------
    >>> from_status(Status(code=5, message="index: expected one of a, b, got 'c'"))
    NotFound("index: expected one of a, b, got 'c'")
    """
    violations = []
    for detail in status.details:
        request = BadRequest()
        if detail.Unpack(request):
            violations += [Violation(v.field, v.description) for v in request.field_violations]
    return BY_CODE.get(_NAMES.get(status.code, ""), Unknown)(_one_line(status.message), tuple(violations))


@contextmanager
def rpc_errors(address: str) -> Iterator[None]:
    """Raise the client's error in place of gRPC's.

    Parameters
    ----------
    address : str
        HOST:PORT that was called.
    """
    try:
        yield
    except grpc.RpcError as error:
        status = rpc_status.from_call(cast(grpc.Call, error))
        if status is not None:
            raise from_status(status) from error
        hint = "; is a server running there?" if error.code() is grpc.StatusCode.UNAVAILABLE else ""
        raise BY_CODE[error.code().name](f"{address}: {_one_line(error.details())}{hint}") from error
    except MalformedMessage as error:
        raise Internal(f"{address}: the answer breaks the contract: {error}") from error


def _one_line(text: str | None) -> str:
    return " ".join((text or "no details").split())
