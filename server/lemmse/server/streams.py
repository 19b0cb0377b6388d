"""Streams of requests: while one item is sent, the next is computed, and the one after it received."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, TypeVar

from lemmse.contract.ahead import ahead
from lemmse.contract.chunks import Incoming, split
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.messages import read_options, reconstruct_response
from lemmse.contract.options import Options
from lemmse.contract.results import Result
from lemmse.server.aside import Aside
from lemmse.server.calls import logged
from lemmse.server.config import ServerConfig
from lemmse.server.failures import Ended, Failure
from lemmse.server.items import items
from lemmse.server.limits import admissible_bytes
from lemmse.server.memory import Memory, StreamMemory, Upload
from lemmse.server.metrics import Stopwatch
from lemmse.server.receiving import Requests
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.tensor_pb2 import TensorChunk

__all__ = ["Streams"]

P = TypeVar("P")
_Request = pb.ReconstructStreamRequest


@dataclass(frozen=True, slots=True)
class _Item(Generic[P]):
    """An item of a stream."""

    number: int
    """Its number."""
    since: float
    """When it had arrived, in the time of `time.perf_counter`."""
    request: P | Failure
    """The request, or why it cannot be answered."""
    upload: Upload | None
    """The memory that it holds."""


class Streams(Generic[P]):
    """Answers streams of requests.

    Parameters
    ----------
    config : ServerConfig
        The settings.
    memory : Memory
        The memory of all requests.
    aside : Aside
        Where to encode.
    prepare : callable
        Decodes and checks a request that has arrived.
    answer : callable
        Computes the result of what `prepare` returns, for a client; adds facts for the log.
    """

    def __init__(
        self,
        config: ServerConfig,
        memory: Memory,
        aside: Aside,
        prepare: Callable[[Incoming[pb.ReconstructRequest], Options], Awaitable[P]],
        answer: Callable[[P, str, dict[str, Any]], Awaitable[Result]],
    ) -> None:
        self._config, self._memory, self._aside = config, memory, aside
        self._prepare, self._answer = prepare, answer

    async def answers(
        self, requests: Requests[_Request], client: str
    ) -> AsyncGenerator[pb.ReconstructStreamResponse, None]:
        """Yield the answers to the items of a stream, in order.

        Parameters
        ----------
        requests : Requests
            The parts of the items.
        client : str
            Name of the client.
        """
        with logged("ReconstructStream") as facts, self._memory.of_stream(client) as memory:
            arriving = ahead(self._arriving(requests, memory, facts))
            async with aclosing(ahead(self._outcomes(arriving, client))) as outcomes:
                async for item, outcome in outcomes:
                    async for part in self._parts(item.number, outcome):
                        yield part
                    if item.upload is not None:
                        item.upload.give()
                    requests.settle()
                    del item, outcome, part  # they may be large, and the next one may be long in coming

    async def _arriving(
        self, requests: Requests[_Request], memory: StreamMemory, facts: dict[str, Any]
    ) -> AsyncGenerator[_Item[P], None]:
        """Yield the items of a stream, decoded."""
        count = 0

        async def admit(incoming: Incoming[pb.ReconstructRequest]) -> Upload:
            nbytes = admissible_bytes(incoming, read_options(incoming.message), self._config)
            upload = await memory.take(nbytes, whole=incoming.complete)
            requests.in_part = not incoming.complete
            return upload

        async with aclosing(items(requests, admit)) as arriving:
            async for number, incoming, upload in arriving:
                requests.in_part = False
                if count == self._config.max_items:
                    raise Ended(
                        f"the stream has {count} items, the most that this server takes in one; open "
                        f"another one",
                        retry_after=0.0,
                    )
                count += 1
                facts["items"] = count
                requests.owe()
                since = perf_counter()
                yield _Item(number, since, await self._prepared(incoming), upload)
                del incoming, upload

    async def _prepared(self, incoming: Incoming[pb.ReconstructRequest] | InvalidArgument) -> P | Failure:
        """Return an item, decoded, or why it cannot be."""
        try:
            if isinstance(incoming, InvalidArgument):
                raise incoming
            return await self._prepare(incoming, read_options(incoming.message))
        except Exception as error:
            return Failure(error)

    async def _outcomes(
        self, arriving: AsyncGenerator[_Item[P], None], client: str
    ) -> AsyncGenerator[tuple[_Item[P], Result | Failure], None]:
        """Yield items with their results, one after the other: a stream has one place in the queue."""
        async with aclosing(arriving):
            async for item in arriving:
                yield item, await self._outcome(item, client)
                del item

    async def _outcome(self, item: _Item[P], client: str) -> Result | Failure:
        try:
            with logged("ReconstructStream.item", item.since) as facts:
                facts["item"] = item.number
                if not isinstance(item.request, Failure):
                    return await self._answer(item.request, client, facts)
                try:
                    raise item.request
                finally:
                    del item  # it refers to the error, and the error to this frame
        except Failure as failure:
            return failure

    async def _parts(
        self, number: int, outcome: Result | Failure
    ) -> AsyncIterator[pb.ReconstructStreamResponse]:
        """Yield the parts of the answer to an item."""
        if isinstance(outcome, Failure):
            yield pb.ReconstructStreamResponse(item=number, error=outcome.status.SerializeToString())
            return
        parts, encoding = split(*reconstruct_response(outcome)), Stopwatch("encode")
        while True:
            with encoding:
                part = await self._aside.run(outcome.image.nbytes, lambda: next(parts, None))
            if part is None:
                encoding.observe()
                return
            if isinstance(part, TensorChunk):
                yield pb.ReconstructStreamResponse(item=number, chunk=part)
            else:
                yield pb.ReconstructStreamResponse(item=number, response=part)
