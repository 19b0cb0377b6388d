"""What happens to every call: an interceptor that identifies, admits, counts and times it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from inspect import isasyncgen, isawaitable
from time import perf_counter
from typing import Any, TypeAlias

import grpc

from lemmse.contract.errors import LemmseError
from lemmse.server.access import check_access
from lemmse.server.metrics import HANDLED, HANDLING_SECONDS, STARTED
from lemmse.server.request_id import HEADER, REQUEST_ID, choose
from lemmse.server.tokens import Tokens

__all__ = ["Interceptor"]

# grpc's own classes have parameters only in their stubs.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Behaviour = Callable[[Any, Any], Any]


class Interceptor(grpc.aio.ServerInterceptor):
    """Identifies each call, refuses it without reading it if its caller may not make it, counts and times it.

    Parameters
    ----------
    tokens : Tokens or None
        The valid tokens; None to accept every caller.
    """

    def __init__(self, tokens: Tokens | None) -> None:
        self._tokens = tokens

    async def intercept_service(  # noqa: D102
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        metadata = tuple(handler_call_details.invocation_metadata or ())
        REQUEST_ID.set(choose(dict(metadata).get(HEADER)))
        handler = await continuation(handler_call_details)
        if handler is None:
            # gRPC answers UNIMPLEMENTED. Such a name is kept out of the metrics, whose labels would otherwise
            # grow with whatever callers send.
            return handler
        service, _, method = handler_call_details.method.strip("/").partition("/")
        labels = (_kind(handler), service, method)
        try:
            check_access(self._tokens, service, metadata)
        except LemmseError as error:
            # As a stream, it does not wait for the messages of the call.
            return grpc.stream_stream_rpc_method_handler(_streaming(_refusing(error), labels))
        behaviour = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )
        wrap = _streaming if handler.response_streaming else _single
        observed: Any = wrap(behaviour, labels)  # type: ignore[arg-type]
        make: Any = _MAKERS[handler.request_streaming, handler.response_streaming]
        made: _Handler = make(observed, handler.request_deserializer, handler.response_serializer)
        return made


_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""What makes a handler, by whether it reads and writes streams."""


def _kind(handler: _Handler) -> str:
    """Return the kind of a method in the words of grpc-ecosystem."""
    if handler.request_streaming:
        return "bidi_stream" if handler.response_streaming else "client_stream"
    return "server_stream" if handler.response_streaming else "unary"


def _refusing(error: LemmseError) -> _Behaviour:
    async def refuse(_requests: Any, context: _Context) -> None:
        metadata = tuple(context.trailing_metadata() or ())
        await context.abort(grpc.StatusCode[error.code], str(error), metadata)

    return refuse


def _single(behaviour: _Behaviour, labels: tuple[str, ...]) -> _Behaviour:
    async def answer(request: Any, context: _Context) -> Any:
        with _counted(labels, context):
            answer = behaviour(request, context)
            return await answer if isawaitable(answer) else answer

    return answer


def _streaming(behaviour: _Behaviour, labels: tuple[str, ...]) -> Any:
    async def answer(request: Any, context: _Context) -> AsyncIterator[Any]:
        with _counted(labels, context):
            answers = behaviour(request, context)
            if isasyncgen(answers):
                async with aclosing(answers):
                    async for part in answers:
                        yield part
            else:
                await answers

    return answer


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
