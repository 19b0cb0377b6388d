"""Conversion of errors of gRPC calls to the errors of the client."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import grpc
from grpc_status import rpc_status

from lemmse.contract.errors import BY_CODE, Internal, MalformedMessage
from lemmse.contract.lines import one_line
from lemmse.contract.status import from_status

__all__ = ["rpc_errors"]


@contextmanager
def rpc_errors(address: str) -> Iterator[None]:
    """Raise the corresponding `LemmseError` if a gRPC call in the `with` block fails.

    Parameters
    ----------
    address : str
        Address of the server, HOST:PORT.
    """
    try:
        yield
    except grpc.RpcError as error:
        status = rpc_status.from_call(cast(grpc.Call, error))
        if status is not None:
            raise from_status(status) from error
        hint = "; is a server running there?" if error.code() is grpc.StatusCode.UNAVAILABLE else ""
        details = one_line(error.details() or "", "no details")
        raise BY_CODE[error.code().name](f"{address}: {details}{hint}") from error
    except MalformedMessage as error:
        raise Internal(f"{address}: the answer breaks the contract: {error}") from error
