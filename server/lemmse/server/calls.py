"""Logging of calls, and conversion of their errors to a gRPC status."""

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
    """Log one line about the `with` block, with its duration and outcome.

    Parameters
    ----------
    what : str
        Name of the method, or of a part of it.

    Yields
    ------
    dict
        Further facts for the line, by name; the block fills it.

    Raises
    ------
    Failure
        Raised in place of any exception of the block.
    """
    facts: dict[str, Any] = {}
    start = time.perf_counter()
    # The outcome if the client has disconnected: its request stream breaks, or gRPC closes the generator of
    # the answers.
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
        listed = "".join(f" {name}={value}" for name, value in facts.items())
        _LOG.info("%s%s seconds=%.3f %s", what, listed, time.perf_counter() - start, outcome)


@contextmanager
def answering(context: grpc.ServicerContext, method: str) -> Iterator[dict[str, Any]]:
    """Log a call, and abort it with the status of any failure in the `with` block.

    Parameters
    ----------
    context : ServicerContext
        The call.
    method : str
        Name of its method.
    """
    try:
        with logged(method) as facts:
            yield facts
    except Failure as failure:
        context.abort_with_status(rpc_status.to_status(failure.status))
