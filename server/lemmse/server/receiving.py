"""Receipt of requests: an interceptor that reads and decodes the messages of every method.

gRPC's own decoding answers bytes that are not a message of the method with a traceback in the log and without
a reason; this one answers with INVALID_ARGUMENT. A method with one request is received as a stream of which
one message is read, because gRPC would read it without a limit of time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Generic, Self, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError

from lemmse.contract.errors import DeadlineExceeded, MalformedMessage
from lemmse.contract.limits import MESSAGE_BYTES
from lemmse.server.calls import with_status
from lemmse.server.failures import Ended
from lemmse.server.open_calls import OpenCalls

__all__ = ["Receiving", "Requests"]

_LEAST = 64
"""Number of calls that may wait for a message at the same time, however little memory there is."""

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Context = grpc.aio.ServicerContext[Any, Any]
M = TypeVar("M")


class Receiving(grpc.aio.ServerInterceptor):
    """Read and decode requests. It is the last interceptor: the others see all methods as streams.

    Parameters
    ----------
    idle_timeout : float
        Time in seconds within which each message must arrive.
    calls : int
        Largest number of calls of the main service, and of all other services together. If there are as many,
        the one that has been silent for longest makes room for a new one.
    memory : int
        Bytes that messages may take, in all, which have arrived in part. Each may be nearly as long as the
        longest one, so that no more calls may wait for one at the same time: three quarters of them of the
        main service, but at least `_LEAST` of each.
    main : str
        Full name of the main service.
    """

    def __init__(self, *, idle_timeout: float, calls: int, memory: int, main: str) -> None:
        self._idle_timeout = idle_timeout
        self._main = f"/{main}/"
        others = memory // MESSAGE_BYTES // 4
        self._main_calls, self._other_calls = (
            OpenCalls(calls, max(_LEAST, 3 * others)),
            OpenCalls(calls, max(_LEAST, others)),
        )

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
        calls = self._calls(method)

        def requests(context: _Context) -> Requests[Any]:
            return Requests(method, handler.request_deserializer, context, calls, self._idle_timeout)

        # Messages are read from the context: gRPC's iterator refers to itself, and to the last message.
        async def answer(_: AsyncIterator[bytes], context: _Context) -> Any:
            with with_status(context, method), calls.counting():
                return await handler.unary_unary(await _first(requests(context)), context)

        async def answers(_: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
            with with_status(context, method), calls.counting():
                if handler.request_streaming:
                    stream = handler.stream_stream(requests(context), context)
                else:
                    stream = handler.unary_stream(await _first(requests(context)), context)
                async with aclosing(stream):
                    async for response in stream:
                        yield response

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                answers, response_serializer=handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(answer, response_serializer=handler.response_serializer)

    def _calls(self, method: str) -> OpenCalls:
        """Return the calls among which one of a method is counted: others must not keep health checks out."""
        return self._main_calls if method.startswith(self._main) else self._other_calls


class Requests(Generic[M]):
    """The messages of a call, decoded, each of which must arrive in time.

    The time in which an answer is owed to the client does not count, as it may wait for that, unless it has
    sent a part of something. Messages are read meanwhile if not too many calls wait for one.

    Parameters
    ----------
    method : str
        Name of the method.
    decode : callable
        Decodes a message.
    context : ServicerContext
        The call.
    calls : OpenCalls
        The calls among which it is counted.
    idle_timeout : float
        Time in seconds within which each message must arrive.
    """

    def __init__(
        self,
        method: str,
        decode: Callable[[bytes], M],
        context: _Context,
        calls: OpenCalls,
        idle_timeout: float,
    ) -> None:
        self._method, self._decode, self._context = method, decode, context
        self._calls, self._idle_timeout = calls, idle_timeout
        self.in_part = False
        """Whether more has to follow what has arrived, whatever is owed."""
        self._owed = 0
        self._nothing_owed = asyncio.Event()
        self._timeout: asyncio.Timeout | None = None
        """That of the message that is read."""
        self._since = 0.0
        """Since when the client has been silent, in the time of the event loop."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        """Return the next message.

        Raises
        ------
        MalformedMessage
            It cannot be decoded.
        DeadlineExceeded
            None has arrived in time.
        Ended
            The call was silent, and has to make room.
        """
        data = await self._read()
        if data is None:
            raise StopAsyncIteration
        try:
            return self._decode(data)
        except DecodeError:
            raise MalformedMessage.of(
                "message", f"expected a message of {self._method}, got other bytes"
            ) from None

    def owe(self) -> None:
        """Note that one more answer is owed to the client."""
        self._owed += 1
        self._nothing_owed.clear()

    def settle(self) -> None:
        """Note that one of the answers owed to the client is sent."""
        self._owed -= 1
        if not self._owed:
            self._nothing_owed.set()
            if not self.in_part:
                self._count_silence()

    @property
    def _may_wait(self) -> bool:
        """Whether the client may wait for an answer before it goes on."""
        return bool(self._owed) and not self.in_part

    async def _read(self) -> bytes | None:
        """Return the next message, or None if there is no further one."""
        if self._may_wait and self._calls.crowded:
            await self._nothing_owed.wait()
        with self._calls.reading():
            try:
                async with asyncio.timeout(None) as timeout:
                    self._timeout = timeout
                    if not self._may_wait:
                        self._count_silence()
                    data = await self._context.read()
                    return None if data is grpc.aio.EOF else data
            except TimeoutError:
                silent = asyncio.get_running_loop().time() - self._since
                if silent < self._idle_timeout:
                    raise Ended(
                        f"the call was silent for {silent:.0f} seconds, and others need its place",
                        retry_after=0.0,
                    ) from None
                raise DeadlineExceeded(
                    f"expected a message within {self._idle_timeout:g} seconds, got none"
                ) from None
            finally:
                self._timeout = None
                self._calls.forget(timeout)
                del timeout  # it refers to the task, and an error that the task keeps to this frame

    def _count_silence(self) -> None:
        """Let the time count from now on in which no message arrives, if one is read."""
        if self._timeout is not None:
            self._since = asyncio.get_running_loop().time()
            self._timeout.reschedule(self._since + self._idle_timeout)
            self._calls.add_silent(self._timeout)


async def _first(requests: Requests[Any]) -> Any:
    """Return the request of a method that has one."""
    async for request in requests:
        return request
    raise MalformedMessage.of("message", "expected one, got none")
