"""The asyncio client for servers."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from lemmse.client import unary
from lemmse.client.aio.admin import AsyncAdmin
from lemmse.client.aio.interface import AsyncClient, Batch, read
from lemmse.client.aio.stream import AsyncStream
from lemmse.client.attempts import Attempts
from lemmse.client.batches import Lane, as_item, freest
from lemmse.client.channels import Channels
from lemmse.client.crop import crop
from lemmse.client.rpc_errors import rpc_errors
from lemmse.client.targets import Servers
from lemmse.contract.errors import InvalidArgument, LemmseError, Retryable
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, NoiseEstimate, Result
from lemmse.contract.tensors import FloatArray

if TYPE_CHECKING:
    from lemmse.v1.index_pb2_grpc import IndexServiceAsyncStub
    from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceAsyncStub

__all__ = ["AsyncRemoteClient"]

T = TypeVar("T")


class AsyncRemoteClient(AsyncClient):
    """An asyncio client for servers; as `lemmse.client.remote.RemoteClient`, but for `await`."""

    def __init__(self, servers: Servers) -> None:
        asyncio.get_running_loop()  # raises outside a coroutine, where the channels could not be used
        self._servers = servers
        self._channels: Channels[ReconstructionServiceAsyncStub, IndexServiceAsyncStub] = Channels(
            grpc.aio, servers
        )

    def __repr__(self) -> str:
        return f"<AsyncRemoteClient {self._servers}>"

    @property
    def admin(self) -> AsyncAdmin:
        """Changes of the indexes of the server."""
        self._require_open()
        self._servers.require_one()
        return AsyncAdmin(self._ask)

    async def _close(self) -> None:
        for channel in self._channels.channels:
            await channel.close()

    async def _reconstruct(
        self, index: str, measurement: Measurement, options: Options, timeout: float | None
    ) -> Result:
        if unary.fits(measurement, options):
            return await self._ask(unary.reconstruct(index, measurement, options), timeout)
        batch = self._reconstruct_many(index, iter([measurement]), options, timeout)
        (outcome,) = [outcome async for outcome in batch]
        if isinstance(outcome, LemmseError):
            raise outcome
        return outcome

    async def _reconstruct_many(
        self, index: str, batch: Batch, options: Options, timeout: float | None
    ) -> AsyncGenerator[Result | LemmseError, None]:
        def open(attempts: Attempts) -> AsyncStream:
            return AsyncStream(self._channels.next(), index, options, attempts)

        lanes = [Lane(open, self._channels.attempts(timeout)) for _ in range(len(self._channels))]
        numbers = count()
        order: deque[Lane[AsyncStream]] = deque()  # of the images that are not answered
        # Both run at the same time: images may come slowly, and the caller wants the results until then.
        reading: asyncio.Task[Measurement | InvalidArgument | None] | None = None
        answering: asyncio.Task[Result | LemmseError] | None = None
        ended = False
        broken: BaseException | None = None  # an exception of the batch waits for the results before it
        try:
            while True:
                self._require_open()
                free = freest(lanes)
                if reading is None and not ended and not free.full:
                    reading = asyncio.create_task(read(batch))
                if answering is None and order:
                    answering = asyncio.create_task(order[0].stream.answer(order[0].unanswered[0]))
                running = [task for task in (reading, answering) if task is not None]
                if not running:
                    break
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading.done():
                    broken = reading.exception()
                    one = None if broken is not None else reading.result()
                    reading = None
                    if one is None:
                        ended = True
                    else:
                        free.send(as_item(next(numbers), one))
                        order.append(free)
                if answering is not None and answering.done():
                    done, answering, lane = answering, None, order[0]
                    try:
                        with self._closing():
                            outcome = done.result()
                    except LemmseError as error:
                        lane.close()
                        self._require_open()
                        await asyncio.sleep(lane.attempts.pause(error))
                    else:
                        order.popleft()
                        lane.unanswered.popleft()
                        yield outcome
            # All are answered: what happens to the connections now does not matter.
            with suppress(Retryable):
                for lane in lanes:
                    if lane.used:
                        await lane.stream.finish()
            if broken is not None:
                raise broken
        finally:
            running = [task for task in (reading, answering) if task is not None]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for lane in lanes:
                lane.close()

    async def _explain(
        self, index: str, measurement: Measurement, options: ExplainOptions, timeout: float | None
    ) -> list[Contributor]:
        if measurement.nbytes > INLINE_BYTES:
            info = await self._get_index(index, timeout)
            if measurement.is_estimated:
                estimate = await self._estimate_noise(index, measurement, timeout)
                measurement = measurement.with_noise(estimate)
            if measurement.gain is not None:
                plain = Options(exclude=options.exclude)
                answer = await self._reconstruct(index, measurement.in_intensities, plain, timeout)
                sides, circular = (info.patch_size, info.patch_depth), info.boundary == "circular"
                measurement = measurement.with_noise_at(answer.image, *sides, circular=circular)
            measurement, options = crop(measurement, options, info)
        return await self._ask(unary.explain(index, measurement, options), timeout)

    async def _vjp(
        self,
        index: str,
        measurement: Measurement,
        vector: FloatArray,
        options: Options,
        timeout: float | None,
    ) -> NDArray[np.float32]:
        return await self._ask(unary.differentiate(index, measurement, vector, options), timeout)

    async def _estimate_noise(
        self, index: str, measurement: Measurement, timeout: float | None
    ) -> NoiseEstimate:
        return await self._ask(unary.estimate_noise(index, measurement), timeout)

    async def _list_indexes(self, timeout: float | None) -> list[IndexInfo]:
        return await self._ask(unary.list_indexes(), timeout)

    async def _get_index(self, name: str, timeout: float | None) -> IndexInfo:
        return await self._ask(unary.get_index(name), timeout)

    async def _ask(self, call: unary.Unary[T], timeout: float | None) -> T:
        attempts = self._channels.attempts(timeout)
        while True:
            self._require_open()
            server = self._channels.next()
            try:
                with self._closing(), rpc_errors(server.address, attempts.request_id):
                    answer = call.read(
                        await call.method(server)(
                            call.request, timeout=attempts.begin(), metadata=attempts.metadata
                        )
                    )
            except LemmseError as error:
                self._require_open()
                await asyncio.sleep(attempts.pause(error))
            else:
                attempts.succeed()
                return answer

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Raise FailedPrecondition if the `with` block was cancelled because the client was closed."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                self._require_open()
            raise
