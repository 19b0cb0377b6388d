"""What interceptors share: a method whose calls are answered within a `with` block."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing
from typing import Any

import grpc

__all__ = ["around"]

_Context = grpc.aio.ServicerContext[Any, Any]


def around(
    handler: Any,
    block: Callable[[_Context], AbstractContextManager[None]],
    begin: Callable[[], None] = lambda: None,
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Return the handler of a method, changed so that each call is answered within a `with` block.

    Parameters
    ----------
    handler : RpcMethodHandler
        The handler, which receives a stream of requests.
    block : callable
        Returns the context manager of a call.
    begin : callable
        Called first in the block. What it raises ends the call.
    """

    async def answer(requests: Any, context: _Context) -> Any:
        with block(context):
            begin()
            return await handler.stream_unary(requests, context)

    async def answers(requests: Any, context: _Context) -> AsyncIterator[Any]:
        with block(context):
            begin()
            async with aclosing(handler.stream_stream(requests, context)) as parts:
                async for part in parts:
                    yield part

    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(answers, response_serializer=handler.response_serializer)
    return grpc.stream_unary_rpc_method_handler(answer, response_serializer=handler.response_serializer)
