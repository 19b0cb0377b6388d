"""Reconstruction of a batch by one ReconstructStream call, in order and with a bounded number in flight."""

from collections import deque
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import NamedTuple, TypeAlias

from google.rpc.status_pb2 import Status

from lemmse.contract.chunks import Incoming, split
from lemmse.contract.errors import InvalidArgument, LemmseError, MalformedMessage
from lemmse.contract.measurement import Measurement
from lemmse.contract.messages import read_result, reconstruct_request
from lemmse.contract.options import Options
from lemmse.contract.results import Result
from lemmse.contract.status import from_status
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from lemmse.v1.tensor_pb2 import TensorChunk

__all__ = ["reconstruct_stream"]

# One is being sent, one computed and one returned.
_IN_FLIGHT = 3


class _Item(NamedTuple):
    """An image that has been sent."""

    number: int
    measurement: Measurement


_Outbound: TypeAlias = "SimpleQueue[_Item | None]"


def reconstruct_stream(
    stub: ReconstructionServiceStub,
    index: str,
    batch: Iterator[Measurement | InvalidArgument],
    options: Options,
    timeout: float | None,
) -> Generator[Result | LemmseError, None, None]:
    """Yield the result, or the error, of each image, in order.

    The batch is iterated in the caller's thread, so that its exceptions reach the caller; gRPC's thread only
    splits the images into messages. Closing the generator cancels the call and ends that thread.

    Parameters
    ----------
    stub : ReconstructionServiceStub
        The server.
    index : str
        Name of the index; empty if the server has only one.
    batch : iterator of Measurement or InvalidArgument
        The measurements. An error in place of a measurement is yielded at its place in the order.
    options : Options
        The options for all measurements.
    timeout : float, optional
        Timeout in seconds for the whole batch.

    Raises
    ------
    grpc.RpcError
        The call as a whole failed.
    MalformedMessage
        An answer of the server is malformed.
    """
    outbound: _Outbound = SimpleQueue()
    waiting: deque[_Item | InvalidArgument] = deque()
    call = stub.ReconstructStream(_requests(outbound, index, options), timeout=timeout)
    try:
        for number, measurement in enumerate(batch):
            if isinstance(measurement, InvalidArgument):
                waiting.append(measurement)
            else:
                item = _Item(number, measurement)
                outbound.put(item)
                waiting.append(item)
            if len(waiting) == _IN_FLIGHT:
                yield _outcome(call, waiting.popleft())
        outbound.put(None)
        while waiting:
            yield _outcome(call, waiting.popleft())
        for surplus in call:
            raise MalformedMessage.of("item", f"got an answer to item {surplus.item}, which was not sent")
    finally:
        outbound.put(None)
        call.cancel()


def _requests(outbound: _Outbound, index: str, options: Options) -> Iterator[pb.ReconstructStreamRequest]:
    """Yield the messages of the items in the queue, until the queue yields None."""
    while (item := outbound.get()) is not None:
        for part in split(reconstruct_request(index, item.measurement, options), item.measurement.arrays):
            if isinstance(part, TensorChunk):
                yield pb.ReconstructStreamRequest(item=item.number, chunk=part)
            else:
                yield pb.ReconstructStreamRequest(item=item.number, request=part)


def _outcome(
    answers: Iterator[pb.ReconstructStreamResponse], expected: _Item | InvalidArgument
) -> Result | LemmseError:
    """Return the outcome of an item: its error if it is invalid, otherwise the next answer of the stream."""
    if isinstance(expected, InvalidArgument):
        return expected
    part = _next_part(answers, expected.number)
    if part.HasField("error"):
        return from_status(Status.FromString(part.error))
    incoming = Incoming(part.response)
    while not incoming.complete:
        incoming.add(_next_part(answers, expected.number).chunk)
    return read_result(incoming).scaled(expected.measurement.white_level)


def _next_part(
    answers: Iterator[pb.ReconstructStreamResponse], expected: int
) -> pb.ReconstructStreamResponse:
    for part in answers:
        if part.item != expected:
            raise MalformedMessage.of("item", f"expected the answer to item {expected}, got item {part.item}")
        return part
    raise MalformedMessage.of("item", f"expected the answer to item {expected}, got the end of the stream")
