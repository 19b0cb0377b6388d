"""Assembly of the items of a request stream from their parts."""

from collections.abc import AsyncIterable, AsyncIterator

from lemmse.contract.chunks import Incoming
from lemmse.contract.errors import MalformedMessage
from lemmse.v1 import reconstruction_pb2 as pb

__all__ = ["Item", "items"]

Item = tuple[int, Incoming[pb.ReconstructRequest] | MalformedMessage]
"""Number of an item, and its request, incomplete if it was cut short, or the error if it is malformed."""


async def items(parts: AsyncIterable[pb.ReconstructStreamRequest]) -> AsyncIterator[Item]:
    """Yield each item as soon as its last byte has arrived; parts are read one at a time.

    A malformed item is yielded as its error, and its remaining parts are discarded.

    Parameters
    ----------
    parts : asynchronous iterable of ReconstructStreamRequest
        The parts of the stream, in order.

    Raises
    ------
    MalformedMessage
        The parts can no longer be assigned to items, so that the stream must end.
    """
    number: int | None = None
    incoming: Incoming[pb.ReconstructRequest] | None = None
    refused = False
    async for part in parts:
        kind = part.WhichOneof("part")
        if kind == "request":
            if incoming is not None and number is not None:
                yield number, incoming
            if part.item == number:
                raise MalformedMessage.of(
                    "item", f"expected a number other than the last item's, got {number}"
                )
            number, incoming, refused = part.item, None, False
        elif kind is None:
            raise MalformedMessage.of("part", "expected a request or a chunk, got neither")
        elif part.item != number or (incoming is None and not refused):
            raise MalformedMessage.of("item", f"got a chunk for item {part.item}, which is not being sent")
        elif refused:
            continue
        try:
            if incoming is None:
                incoming = Incoming(part.request)
            else:
                incoming.add(part.chunk)
        except MalformedMessage as error:
            incoming, refused = None, True
            yield part.item, error
        else:
            if incoming.complete:
                yield part.item, incoming
                incoming = None
    if incoming is not None and number is not None:
        yield number, incoming
