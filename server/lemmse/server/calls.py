"""The edge around every call: one line in the log, and errors turned into a status."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_status import rpc_status

from lemmse.server.failures import Failure

__all__ = ["answering", "logged"]

_LOG = logging.getLogger(__name__)


@contextmanager
def logged(what: str) -> Iterator[dict[str, Any]]:
    """Log one line about what happens inside.

    Parameters
    ----------
    what : str
        Name of the method or of a part of it.

    Yields
    ------
    dict
        Facts to put into the line.

    Raises
    ------
    Failure
        In place of whatever else was raised inside.
    """
    facts: dict[str, Any] = {}
    start = time.perf_counter()
    # What is left where the client is gone: its request stream breaks, or gRPC closes the answers' generator.
    outcome = grpc.StatusCode.CANCELLED.name
    try:
        yield facts
        outcome = grpc.StatusCode.OK.name
    except grpc.RpcError:
        raise
    except Exception as error:
        failure = Failure(error)
        outcome = f"{failure.code.name} {failure}"
        raise failure from error
    finally:
        told = "".join(f" {name}={value}" for name, value in facts.items())
        _LOG.info("%s%s seconds=%.3f %s", what, told, time.perf_counter() - start, outcome)


@contextmanager
def answering(context: grpc.ServicerContext, method: str) -> Iterator[dict[str, Any]]:
    """Answer a call: `logged`, and a failure inside ends the call with its status.

    Parameters
    ----------
    context : ServicerContext
        The call.
    method : str
        Its method.
    """
    try:
        with logged(method) as facts:
            yield facts
    except Failure as failure:
        context.abort_with_status(rpc_status.to_status(failure.status))
