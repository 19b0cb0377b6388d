"""A ReconstructStream call of the synchronous client."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from queue import SimpleQueue

from lemmse.client.attempts import Attempts
from lemmse.client.batches import Answer, Item, ended, parts, surplus
from lemmse.client.channels import Server
from lemmse.client.rpc_errors import rpc_errors
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.options import Options
from lemmse.contract.results import Result
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.index_pb2_grpc import IndexServiceStub
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub

__all__ = ["Stream"]


class Stream:
    """A ReconstructStream call; its methods raise the errors of the client.

    gRPC's thread only splits the images into messages. Closing the stream cancels the call and ends that
    thread.

    Parameters
    ----------
    server : Server
        The server to call.
    index : str
        Name of the index; empty if the server has only one.
    options : Options
        The options for all images.
    attempts : Attempts
        The attempts of which this call is one.
    """

    def __init__(
        self,
        server: Server[ReconstructionServiceStub, IndexServiceStub],
        index: str,
        options: Options,
        attempts: Attempts,
    ) -> None:
        self._outbound: SimpleQueue[Item | None] = SimpleQueue()
        self._address, self._attempts = server.address, attempts
        self._call = server.reconstruction.ReconstructStream(
            _requests(self._outbound, index, options), timeout=attempts.begin(), metadata=attempts.metadata
        )

    def send(self, *items: Item | InvalidArgument) -> None:
        """Send items, without waiting; an error in place of an image is not sent."""
        for item in items:
            if isinstance(item, Item):
                self._outbound.put(item)

    def answer(self, item: Item | InvalidArgument) -> Result | LemmseError:
        """Wait for the answer to an item, and return its result or its error.

        Raises
        ------
        LemmseError
            The call failed, or the server asks for the item at a later time.
        """
        if isinstance(item, InvalidArgument):
            return item
        answer = Answer(item, self._attempts.request_id)
        with self._errors():
            for part in self._call:
                outcome = answer.add(part)
                if outcome is not None:
                    self._attempts.succeed()
                    return outcome
        raise ended(self._address)

    def finish(self) -> None:
        """Wait until the server ends the call, after the last answer.

        Raises
        ------
        LemmseError
            The server sent another answer, or the call failed.
        """
        self._outbound.put(None)
        with self._errors():
            for part in self._call:
                raise surplus(part)

    def close(self) -> None:
        """Cancel the call unless it has ended."""
        self._outbound.put(None)
        self._call.cancel()

    def _errors(self) -> AbstractContextManager[None]:
        return rpc_errors(self._address, self._attempts.request_id)


def _requests(
    outbound: "SimpleQueue[Item | None]", index: str, options: Options
) -> Iterator[pb.ReconstructStreamRequest]:
    """Yield the messages of the items in the queue, until the queue yields None."""
    while (item := outbound.get()) is not None:
        yield from parts(item, index, options)
