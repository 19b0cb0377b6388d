"""Assembly of the items of a request stream from their parts."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from lemmse.contract.chunks import Incoming
from lemmse.contract.errors import DeadlineExceeded, InvalidArgument, MalformedMessage
from lemmse.server.failures import Ended
from lemmse.server.memory import Upload
from lemmse.v1 import reconstruction_pb2 as pb

__all__ = ["Item", "items"]


class Item(NamedTuple):
    """An item of a stream."""

    number: int
    """Its number."""
    request: Incoming[pb.ReconstructRequest] | InvalidArgument
    """The request, incomplete if it was cut short, or the error if it is invalid."""
    upload: Upload | None
    """The memory that it holds, which whoever answers it returns; None if it is invalid."""


Admit = Callable[[Incoming[pb.ReconstructRequest]], Awaitable[Upload]]
"""Waits for the memory of an item whose first part has arrived, or raises InvalidArgument."""


async def items(
    parts: AsyncIterator[pb.ReconstructStreamRequest], admit: Admit
) -> AsyncGenerator[Item, None]:
    """Yield each item as soon as its last byte has arrived; parts are read one at a time.

    An invalid item is yielded as its error, and its remaining parts are discarded.

    Parameters
    ----------
    parts : asynchronous iterator of ReconstructStreamRequest
        The parts of the stream, in order.
    admit : callable
        Called for the first part of each item.

    Raises
    ------
    MalformedMessage
        The parts can no longer be assigned to items, so that the stream must end.
    DeadlineExceeded
        The next part of an item did not arrive in time.
    Ended
        The next item did not arrive in time.
    """
    number: int | None = None
    incoming: Incoming[pb.ReconstructRequest] | None = None
    upload: Upload | None = None
    refused = False

    def handed_over() -> Upload | None:
        nonlocal upload
        own, upload = upload, None
        return own

    try:
        while (part := await _next(parts, within_item=incoming is not None)) is not None:
            kind = part.WhichOneof("part")
            if kind == "request":
                if incoming is not None and number is not None:
                    yield Item(number, incoming, handed_over())
                if part.item == number:
                    raise MalformedMessage.of(
                        "item", f"expected a number other than the last item's, got {number}"
                    )
                number, incoming, refused = part.item, None, False
            elif kind is None:
                raise MalformedMessage.of("part", "expected a request or a chunk, got neither")
            elif part.item != number or (incoming is None and not refused):
                raise MalformedMessage.of(
                    "item", f"got a chunk for item {part.item}, which is not being sent"
                )
            elif refused:
                continue
            try:
                if incoming is None or upload is None:
                    incoming = Incoming(part.request)
                    upload = await admit(incoming)
                else:
                    upload.require_patience()
                    incoming.add(part.chunk)
            except InvalidArgument as error:
                incoming, refused = None, True
                if upload is not None:
                    upload.give()
                    upload = None
                yield Item(part.item, error, None)
            else:
                if incoming.complete:
                    upload.arrived()
                    yield Item(part.item, incoming, handed_over())
                    incoming = None
            del part  # it may be large, and the next one may be long in coming
        if incoming is not None and number is not None:
            yield Item(number, incoming, handed_over())
    finally:
        if upload is not None:
            upload.give()


async def _next(
    parts: AsyncIterator[pb.ReconstructStreamRequest], *, within_item: bool
) -> pb.ReconstructStreamRequest | None:
    """Return the next part, or None if there is no further one."""
    try:
        return await anext(parts, None)
    except DeadlineExceeded as error:
        if within_item:
            raise
        raise Ended(f"the stream was silent: {error.message}; open another one", retry_after=0.0) from None
