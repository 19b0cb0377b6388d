"""Logging of calls, and conversion of their errors to a gRPC status."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_status import rpc_status

from lemmse.contract.errors import LemmseError
from lemmse.server.failures import Failure

__all__ = ["logged", "with_status"]

_LOG = logging.getLogger(__name__)


@contextmanager
def logged(what: str, since: float | None = None) -> Iterator[dict[str, Any]]:
    """Log one line about the `with` block, with its duration and outcome.

    Parameters
    ----------
    what : str
        Name of the method, or of a part of it.
    since : float, optional
        When it began, in the time of `time.perf_counter`; by default, now.

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
    start = time.perf_counter() if since is None else since
    # The outcome if the client has disconnected: the task of the call is cancelled, or gRPC closes the
    # generator of the answers.
    outcome = grpc.StatusCode.CANCELLED.name
    try:
        yield facts
        outcome = grpc.StatusCode.OK.name
    except Exception as error:
        failure = error if isinstance(error, Failure) else Failure(error)
        outcome = f"{failure.code.name} {failure}"
        try:
            raise failure from None
        finally:
            del failure  # it refers to this frame, which would keep what the block refers to
    finally:
        seconds = time.perf_counter() - start
        listed = "".join(f" {name}={_shown(value)}" for name, value in facts.items())
        said = {"method": what, **facts, "seconds": round(seconds, 6), "outcome": outcome}
        _LOG.info("%s%s seconds=%.3f %s", what, listed, seconds, outcome, extra={"facts": said})


def _shown(fact: Any) -> Any:
    """Return a fact for the text of a line, in which quotes keep what a client sent in one piece."""
    plain = not isinstance(fact, str) or (fact.isprintable() and fact and " " not in fact)
    return fact if plain else repr(fact)


@contextmanager
def with_status(context: "grpc.aio.ServicerContext[Any, Any]", method: str) -> Iterator[None]:
    """End a call with the status of any failure in the `with` block.

    The status is set instead of aborting the call: the exception by which gRPC aborts would refer to the
    frames of the call, and they to the exception, which would keep the request in memory.

    Parameters
    ----------
    context : ServicerContext
        The call.
    method : str
        Name of its method, for the log.
    """
    try:
        yield
    except Failure as failure:
        _set_status(context, failure)
    except LemmseError as error:  # the request did not reach the servicer, which would have logged it
        refusal = Failure(error)
        _LOG.info("%s %s %s", method, refusal.code.name, refusal)
        _set_status(context, refusal)


def _set_status(context: "grpc.aio.ServicerContext[Any, Any]", failure: Failure) -> None:
    status = rpc_status.to_status(failure.status)
    context.set_code(status.code)
    context.set_details(status.details)
    context.set_trailing_metadata((*(context.trailing_metadata() or ()), *status.trailing_metadata))
