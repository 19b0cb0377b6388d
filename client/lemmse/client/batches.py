"""The images of a batch as messages of a ReconstructStream call, and their answers. Nothing here connects."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from google.rpc.status_pb2 import Status

from lemmse.client.attempts import Attempts
from lemmse.contract.address import Address
from lemmse.contract.chunks import Incoming, split
from lemmse.contract.errors import InvalidArgument, LemmseError, MalformedMessage, Retryable, Unavailable
from lemmse.contract.measurement import Measurement
from lemmse.contract.messages import read_result, reconstruct_request
from lemmse.contract.options import Options
from lemmse.contract.results import Result
from lemmse.contract.status import from_status
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.tensor_pb2 import TensorChunk

__all__ = ["Answer", "Item", "Lane", "as_item", "ended", "freest", "parts", "surplus"]

_IN_FLIGHT = 3
"""Number of images that are sent to a server before the answer to the first of them: one is being sent, one
computed and one returned."""


class Item(NamedTuple):
    """An image of a batch."""

    number: int
    measurement: Measurement


def as_item(number: int, measurement: Measurement | InvalidArgument) -> Item | InvalidArgument:
    """Return a measurement as the item of that number; an error in its place as it is."""
    return measurement if isinstance(measurement, InvalidArgument) else Item(number, measurement)


def parts(item: Item, index: str, options: Options) -> Iterator[pb.ReconstructStreamRequest]:
    """Yield the messages that ask for the reconstruction of an item."""
    for part in split(reconstruct_request(index, item.measurement, options), item.measurement.arrays):
        if isinstance(part, TensorChunk):
            yield pb.ReconstructStreamRequest(item=item.number, chunk=part)
        else:
            yield pb.ReconstructStreamRequest(item=item.number, request=part)


class _Stream(Protocol):
    def send(self, *items: Item | InvalidArgument) -> None: ...

    def close(self) -> None: ...


S = TypeVar("S", bound=_Stream)


class Lane(Generic[S]):
    """The images of a batch that one server is asked for: a stream, or one after another if they fail.

    Parameters
    ----------
    open : callable
        Opens a stream for some attempts.
    attempts : Attempts
        The attempts, of which each stream is one.
    """

    def __init__(self, open: Callable[[Attempts], S], attempts: Attempts) -> None:
        self._open = open
        self._stream: S | None = None
        self.attempts = attempts
        self.unanswered: deque[Item | InvalidArgument] = deque()
        """The images that are sent and not answered, in order."""

    @property
    def stream(self) -> S:
        """The stream, which is opened if there is none, and sent what is not answered."""
        if self._stream is None:
            self._stream = self._open(self.attempts)
            self._stream.send(*self.unanswered)
        return self._stream

    @property
    def used(self) -> bool:
        """Whether the stream is open."""
        return self._stream is not None

    @property
    def full(self) -> bool:
        """Whether no further image should be sent before one is answered."""
        return len(self.unanswered) >= _IN_FLIGHT

    def send(self, item: Item | InvalidArgument) -> None:
        """Send an item, without waiting."""
        stream = self.stream
        self.unanswered.append(item)
        stream.send(item)

    def close(self) -> None:
        """Cancel the stream; the next use opens another."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def freest(lanes: Sequence[Lane[S]]) -> Lane[S]:
    """Return the lane with the fewest images."""
    return min(lanes, key=lambda lane: len(lane.unanswered))


class Answer:
    """The answer to an item, assembled from its parts.

    Parameters
    ----------
    item : Item
        The item.
    request_id : str
        The id that was sent with the call, for an error.
    """

    def __init__(self, item: Item, request_id: str) -> None:
        self._item = item
        self._request_id = request_id
        self._incoming: Incoming[pb.ReconstructResponse] | None = None

    def add(self, part: pb.ReconstructStreamResponse) -> Result | LemmseError | None:
        """Add a part, and return the result, or the error of the item; None while parts are missing.

        Raises
        ------
        Retryable
            The server asks for the item at a later time.
        MalformedMessage
            The part is of another item, or breaks the contract.
        """
        if part.item != self._item.number:
            raise MalformedMessage.of(
                "item", f"expected the answer to item {self._item.number}, got item {part.item}"
            )
        if part.HasField("error"):
            error = from_status(Status.FromString(part.error))
            error.request_id = self._request_id
            if isinstance(error, Retryable) and error.retry_after is not None:
                raise error
            return error
        if self._incoming is None:
            self._incoming = Incoming(part.response)
        else:
            self._incoming.add(part.chunk)
        if not self._incoming.complete:
            return None
        return self._item.measurement.returned(read_result(self._incoming))


def surplus(part: pb.ReconstructStreamResponse) -> MalformedMessage:
    """Return the error for a part that comes after all answers."""
    return MalformedMessage.of("item", f"got an answer to item {part.item}, which was not sent")


def ended(address: Address) -> Unavailable:
    """Return the error for a stream that a server ended before it answered all images."""
    return Unavailable(f"{address}: the stream ended before all images were answered", retry_after=0.0)
