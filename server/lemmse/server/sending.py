"""Sending of answers: an interceptor that ends streams whose answers are not taken."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from lemmse.server.calls import with_status
from lemmse.server.failures import Ended

__all__ = ["Sending"]

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Context = grpc.aio.ServicerContext[Any, Any]


class Sending(grpc.aio.ServerInterceptor):
    """Send each answer of a stream within a time. It is the first interceptor.

    If the client does not take one in time, all that the call holds is freed, but for this answer, which gRPC
    keeps until the client takes it or its connection ends. The status of the call follows it.

    Parameters
    ----------
    idle_timeout : float
        Time in seconds within which the client must take each answer.
    """

    def __init__(self, idle_timeout: float) -> None:
        self._idle_timeout = idle_timeout

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Return the handler of a method, changed so if it has a stream of answers."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        if not handler.response_streaming:
            unary: _Handler = handler
            return unary
        method = handler_call_details.method

        async def answers(requests: AsyncIterator[bytes], context: _Context) -> None:
            with with_status(context, method):
                async with aclosing(handler.stream_stream(requests, context)) as parts:
                    late = await self._first_late(parts, context)
                if late is not None:  # another status could not be sent before
                    await late
                    raise Ended(
                        f"the client took no answer for {self._idle_timeout:g} seconds; open another stream",
                        retry_after=0.0,
                    )

        return grpc.stream_stream_rpc_method_handler(answers, response_serializer=handler.response_serializer)

    async def _first_late(self, parts: AsyncIterator[Any], context: _Context) -> "asyncio.Task[None] | None":
        """Send answers, until one is not taken in time: return the task that sends it; None if all were."""
        async for part in parts:
            sending = asyncio.ensure_future(context.write(part))
            del part
            try:
                done, _ = await asyncio.wait({sending}, timeout=self._idle_timeout)
            except asyncio.CancelledError:
                sending.cancel()
                raise
            if not done:
                return sending
            sending.result()
        return None
