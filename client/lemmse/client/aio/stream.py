"""A ReconstructStream call of the asyncio client."""

from asyncio import Queue
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from lemmse.client.attempts import Attempts
from lemmse.client.batches import Answer, Item, ended, parts, surplus
from lemmse.client.channels import Server
from lemmse.client.rpc_errors import rpc_errors
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.options import Options
from lemmse.contract.results import Result
from lemmse.v1 import reconstruction_pb2 as pb

if TYPE_CHECKING:
    from lemmse.v1.index_pb2_grpc import IndexServiceAsyncStub
    from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceAsyncStub

__all__ = ["AsyncStream"]


class AsyncStream:
    """A ReconstructStream call; as `lemmse.client.stream.Stream`, but for `await`."""

    def __init__(
        self,
        server: "Server[ReconstructionServiceAsyncStub, IndexServiceAsyncStub]",
        index: str,
        options: Options,
        attempts: Attempts,
    ) -> None:
        self._outbound: Queue[Item | None] = Queue()
        self._address, self._attempts = server.address, attempts
        self._call = server.reconstruction.ReconstructStream(
            _requests(self._outbound, index, options), timeout=attempts.begin(), metadata=attempts.metadata
        )

    def send(self, *items: Item | InvalidArgument) -> None:
        """Send items, without waiting; an error in place of an image is not sent."""
        for item in items:
            if isinstance(item, Item):
                self._outbound.put_nowait(item)

    async def answer(self, item: Item | InvalidArgument) -> Result | LemmseError:
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
            async for part in self._call:
                outcome = answer.add(part)
                if outcome is not None:
                    self._attempts.succeed()
                    return outcome
        raise ended(self._address)

    async def finish(self) -> None:
        """Wait until the server ends the call, after the last answer.

        Raises
        ------
        LemmseError
            The server sent another answer, or the call failed.
        """
        self._outbound.put_nowait(None)
        with self._errors():
            async for part in self._call:
                raise surplus(part)

    def close(self) -> None:
        """Cancel the call unless it has ended."""
        self._outbound.put_nowait(None)
        self._call.cancel()

    def _errors(self) -> AbstractContextManager[None]:
        return rpc_errors(self._address, self._attempts.request_id)


async def _requests(
    outbound: "Queue[Item | None]", index: str, options: Options
) -> AsyncIterator[pb.ReconstructStreamRequest]:
    """Yield the messages of the items in the queue, until the queue yields None."""
    while (item := await outbound.get()) is not None:
        for part in parts(item, index, options):
            yield part
