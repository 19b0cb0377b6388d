"""Conversion of errors of gRPC calls to the errors of the client."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import grpc
from grpc_status import rpc_status

from lemmse.client.attempts import REQUEST_ID
from lemmse.contract.address import Address
from lemmse.contract.errors import BY_CODE, Internal, LemmseError, MalformedMessage, Unavailable
from lemmse.contract.lines import one_line
from lemmse.contract.status import from_status

__all__ = ["rpc_errors"]

_NO_SERVER = "is a server running there?"
_HINTS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not of an authority that is trusted; name its own by "
    "root_certificates, or --root-certificates",
    "Hostname Verification": "its certificate is for another name or IP address",
    "is not in peer certificate": "its certificate is for another name or IP address",  # so in gRPC 1.76
    "WRONG_VERSION_NUMBER": "does the server use TLS? without it, the scheme is grpc://",
}
"""What to do, by what gRPC says of a connection that failed."""


_UNSENT = "Internal error from Core"
"""What grpc.aio says, with the code INTERNAL, of a message that it sends while the connection is lost."""


@contextmanager
def rpc_errors(address: Address, request_id: str) -> Iterator[None]:
    """Raise the corresponding `LemmseError` if a gRPC call in the `with` block fails.

    Parameters
    ----------
    address : Address
        Address of the server.
    request_id : str
        The id that was sent with the call.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _convert(error, address, request_id) from error
    except MalformedMessage as error:
        internal = Internal(f"{address}: the answer breaks the contract: {error}")
        internal.request_id = request_id
        raise internal from error


def _convert(error: grpc.RpcError, address: Address, request_id: str) -> LemmseError:
    call = cast(grpc.Call, error)
    status = rpc_status.from_call(call)
    metadata = {key: value for key, value in call.trailing_metadata() or () if isinstance(value, str)}
    if status is not None:
        converted = from_status(status)
    else:
        details = one_line(call.details() or "", "no details")
        if call.code() is grpc.StatusCode.UNAVAILABLE or details == _UNSENT:
            # The connection, or a proxy. Nothing tells whether the server has seen the call.
            request_id = ""
            hint = next((hint for sign, hint in _HINTS.items() if sign in details), _NO_SERVER)
            converted = Unavailable(f"{address}: {details}; {hint}", retry_after=0.0)
        else:
            converted = BY_CODE[call.code().name](f"{address}: {details}")
    converted.request_id = metadata.get(REQUEST_ID, request_id)
    return converted
