"""Receipt of requests: an interceptor that reads and decodes the messages of every method.

gRPC's own decoding answers bytes that are not a message of the method with a traceback in the log and without
a reason; this one answers with INVALID_ARGUMENT. A method with one request is received as a stream of which
one message is read, because gRPC would read it without a limit of time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from lemmse.contract.errors import DeadlineExceeded, MalformedMessage, ResourceExhausted
from lemmse.contract.limits import MESSAGE_BYTES
from lemmse.server.calls import with_status
from lemmse.server.failures import Ended

__all__ = ["Receiving"]

_SILENT = 1.0
"""Time in seconds without a message after which a call may have to make room for another one."""
_RETRY = 1.0
"""Time in seconds after which to try again."""
_LEAST = 64
"""Number of calls that may wait for a message at the same time, however little memory there is."""

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Context = grpc.aio.ServicerContext[Any, Any]


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
            _Calls(calls, max(_LEAST, 3 * others)),
            _Calls(calls, max(_LEAST, others)),
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

        def requests(context: _Context) -> AsyncIterator[Any]:
            return self._requests(method, handler.request_deserializer, context)

        # Messages are read from the context: gRPC's iterator refers to itself, and to the last message.
        async def answer(_: AsyncIterator[bytes], context: _Context) -> Any:
            with with_status(context, method), self._calls(method).counting():
                return await handler.unary_unary(await _first(requests(context)), context)

        async def answers(_: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
            with with_status(context, method), self._calls(method).counting():
                if handler.request_streaming:
                    stream = handler.stream_stream(requests(context), context)
                else:
                    stream = handler.unary_stream(await _first(requests(context)), context)
                async for response in stream:
                    yield response

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                answers, response_serializer=handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(answer, response_serializer=handler.response_serializer)

    def _calls(self, method: str) -> "_Calls":
        """Return the calls among which one of a method is counted: others must not keep health checks out."""
        return self._main_calls if method.startswith(self._main) else self._other_calls

    async def _requests(
        self, method: str, decode: Callable[[bytes], Any], context: _Context
    ) -> AsyncIterator[Any]:
        """Yield the decoded messages of a call.

        Raises
        ------
        MalformedMessage
            A message cannot be decoded.
        DeadlineExceeded
            None has arrived in time.
        Ended
            The call was silent, and has to make room.
        """
        while (data := await self._next(method, context)) is not None:
            try:
                message = decode(data)
            except DecodeError:
                raise MalformedMessage.of(
                    "message", f"expected a message of {method}, got other bytes"
                ) from None
            del data
            yield message
            del message

    async def _next(self, method: str, context: _Context) -> bytes | None:
        """Return the next message, or None if there is no further one."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            async with asyncio.timeout(self._idle_timeout) as timeout:
                with self._calls(method).silent(timeout):
                    data = await context.read()
                    return None if data is grpc.aio.EOF else data
        except TimeoutError:
            silent = loop.time() - since
            if silent < self._idle_timeout:
                raise Ended(
                    f"the call was silent for {silent:.0f} seconds, and others need its place",
                    retry_after=0.0,
                ) from None
            raise DeadlineExceeded(
                f"expected a message within {self._idle_timeout:g} seconds, got none"
            ) from None


class _Calls:
    """The open calls of some services.

    Parameters
    ----------
    most : int
        Largest number.
    waiting : int
        Largest number of those that wait for a message.
    """

    def __init__(self, most: int, waiting: int) -> None:
        self._most, self._most_waiting = most, waiting
        self._count = 0
        self._silent: dict[asyncio.Timeout, float] = {}
        """The calls that wait for a message, with the time since when, longest first."""

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count a call.

        Raises
        ------
        ResourceExhausted
            There are too many.
        """
        if self._count >= self._most and not self._end_silent():
            raise ResourceExhausted(
                f"the server already has {self._count} open calls; try again later", retry_after=_RETRY
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @contextmanager
    def silent(self, timeout: asyncio.Timeout) -> Iterator[None]:
        """Note that a call waits for a message, and may be ended by its timeout to make room.

        Raises
        ------
        ResourceExhausted
            Too many do.
        """
        if len(self._silent) >= self._most_waiting and not self._end_silent():
            raise ResourceExhausted(
                f"the server already waits for {len(self._silent)} messages; try again later",
                retry_after=_RETRY,
            )
        self._silent[timeout] = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._silent.pop(timeout, None)

    def _end_silent(self) -> bool:
        """End the call that has been silent for longest, if it was for a while, and return whether it was."""
        now = asyncio.get_running_loop().time()
        timeout, since = next(iter(self._silent.items()), (None, now))
        if timeout is None or now - since < _SILENT:
            return False
        del self._silent[timeout]
        timeout.reschedule(now)
        return True


async def _first(requests: AsyncIterator[Any]) -> Any:
    """Return the request of a method that has one."""
    async for request in requests:
        return request
    raise MalformedMessage.of("message", "expected one, got none")
