"""Receipt of requests: an interceptor that reads and decodes the messages of every method.

gRPC's own decoding answers bytes that are not a message of the method with a traceback in the log and without
a reason; this one answers with INVALID_ARGUMENT. A method with one request is received as a stream of which
one message is read, because gRPC would read it without a limit of time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from lemmse.contract.errors import DeadlineExceeded, LemmseError, MalformedMessage
from lemmse.server.calls import with_status
from lemmse.server.failures import Failure

__all__ = ["Receiving"]

_LOG = logging.getLogger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Context = grpc.aio.ServicerContext[Any, Any]


class Receiving(grpc.aio.ServerInterceptor):
    """Read and decode requests. It is the last interceptor: the others see all methods as streams.

    Parameters
    ----------
    idle_timeout : float
        Time in seconds within which each message must arrive.
    """

    def __init__(self, idle_timeout: float) -> None:
        self._idle_timeout = idle_timeout

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Return the handler of a method, changed so that it receives bytes."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method

        def requests(received: AsyncIterator[bytes]) -> AsyncIterator[Any]:
            return self._requests(method, handler.request_deserializer, received)

        async def answer(received: AsyncIterator[bytes], context: _Context) -> Any:
            with with_status(context):
                return await handler.unary_unary(await _first(requests(received)), context)

        async def answers(received: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
            with with_status(context):
                if handler.request_streaming:
                    stream = handler.stream_stream(requests(received), context)
                else:
                    stream = handler.unary_stream(await _first(requests(received)), context)
                async for response in stream:
                    yield response

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                answers,
                response_serializer=handler.response_serializer,
            )
        return grpc.stream_unary_rpc_method_handler(
            answer,
            response_serializer=handler.response_serializer,
        )

    async def _requests(
        self, method: str, decode: Callable[[bytes], Any], received: AsyncIterator[bytes]
    ) -> AsyncIterator[Any]:
        """Yield the decoded messages of a call.

        Raises
        ------
        Failure
            A message cannot be decoded, or did not arrive in time.
        """
        while True:
            try:
                async with asyncio.timeout(self._idle_timeout):
                    data = await anext(received, None)
                if data is None:
                    return
                message = decode(data)
            except TimeoutError:
                raise _failed(
                    method,
                    DeadlineExceeded(f"expected a message within {self._idle_timeout:g} seconds, got none"),
                ) from None
            except DecodeError:
                raise _failed(
                    method, MalformedMessage.of("message", f"expected a message of {method}, got other bytes")
                ) from None
            yield message
            del data, message


async def _first(requests: AsyncIterator[Any]) -> Any:
    """Return the request of a method that has one."""
    async for request in requests:
        return request
    raise Failure(MalformedMessage.of("message", "expected one, got none"))


def _failed(method: str, error: LemmseError) -> Failure:
    failure = Failure(error)
    _LOG.info("%s %s %s", method, failure.code.name, failure)
    return failure
