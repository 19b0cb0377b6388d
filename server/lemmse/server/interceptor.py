"""What happens to every call: an interceptor that identifies, admits, counts and times it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Any, TypeAlias

import grpc
from google.protobuf import descriptor_pool

from lemmse.server.access import check_access
from lemmse.server.around import around
from lemmse.server.callers import CALLER
from lemmse.server.calls import with_status
from lemmse.server.metrics import HANDLED, HANDLING_SECONDS, STARTED
from lemmse.server.request_id import HEADER, REQUEST_ID, choose
from lemmse.server.tokens import Tokens

__all__ = ["Interceptor"]

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Context = grpc.aio.ServicerContext[Any, Any]


class Interceptor(grpc.aio.ServerInterceptor):
    """Identifies each call, refuses it without reading it if its caller may not make it, counts and times it.

    It stands behind `Sending` and before `Receiving`, so that it sees every request as a stream.

    Parameters
    ----------
    tokens : Tokens or None
        The valid tokens; None to accept every caller.
    """

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Return the handler of a method, changed so."""
        metadata = tuple(handler_call_details.invocation_metadata or ())
        REQUEST_ID.set(choose(dict(metadata).get(HEADER)))
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            # gRPC answers UNIMPLEMENTED. Such a name is kept out of the metrics, whose labels would otherwise
            # grow with whatever callers send.
            return None
        name = handler_call_details.method
        service, _, method = name.strip("/").partition("/")
        labels = (_kind(service, method), service, method)

        @contextmanager
        def block(context: _Context) -> Iterator[None]:
            with _counted(labels, context), with_status(context, name):
                yield

        def begin() -> None:
            CALLER.set(check_access(self._tokens, service, metadata))

        return around(handler, block, begin)


@cache
def _kind(service: str, method: str) -> str:
    """Return the kind of a method of the server in the words of grpc-ecosystem."""
    found = descriptor_pool.Default().FindMethodByName(f"{service}.{method}")
    if found.client_streaming:
        return "bidi_stream" if found.server_streaming else "client_stream"
    return "server_stream" if found.server_streaming else "unary"


@contextmanager
def _counted(labels: tuple[str, ...], context: _Context) -> Iterator[None]:
    """Count and time a call, and add its identifier to its trailing metadata."""
    context.set_trailing_metadata(((HEADER, REQUEST_ID.get()),))
    STARTED.labels(*labels).inc()
    begin, code = perf_counter(), grpc.StatusCode.UNKNOWN
    try:
        yield
        # The requests of a stream that is cancelled just end.
        ended = grpc.StatusCode.CANCELLED if context.cancelled() else grpc.StatusCode.OK
        code = _set_code(context) or ended
    except (asyncio.CancelledError, GeneratorExit):
        left = context.time_remaining()
        late = left is not None and left <= 0
        code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        raise
    except BaseException:
        code = _set_code(context) or grpc.StatusCode.UNKNOWN
        raise
    finally:
        HANDLED.labels(*labels, code.name).inc()
        HANDLING_SECONDS.labels(*labels).observe(perf_counter() - begin)


def _set_code(context: _Context) -> grpc.StatusCode | None:
    """Return the status that the handler has set; gRPC has it as its number."""
    number = context.code()
    return next((code for code in grpc.StatusCode if number in (code, code.value[0])), None)
