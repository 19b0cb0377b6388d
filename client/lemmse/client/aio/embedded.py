"""The asyncio client for index folders, which are loaded and asked in threads."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from threading import Event
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lemmse.client.aio.interface import AsyncClient, Batch, read
from lemmse.client.embedded import EmbeddedClient, expiry
from lemmse.contract.ahead import ahead
from lemmse.contract.errors import DeadlineExceeded, InvalidArgument, LemmseError
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, NoiseEstimate, Result
from lemmse.contract.tensors import FloatArray

__all__ = ["AsyncEmbeddedClient"]

T = TypeVar("T")
Expired = Callable[[], bool]


class AsyncEmbeddedClient(AsyncClient):
    """An asyncio client for index folders in this process.

    Parameters
    ----------
    *folders : path
        Index folders, at least one.
    scheduler : str, optional
        Address of a Dask scheduler whose workers hold the keys.
    """

    def __init__(self, *folders: str, scheduler: str | None = None) -> None:
        self._folders = [os.path.abspath(folder) for folder in folders]
        loading = asyncio.to_thread(EmbeddedClient, *folders, scheduler=scheduler)
        self._loading = asyncio.get_running_loop().create_task(loading)

    def __repr__(self) -> str:
        return f"<AsyncEmbeddedClient {','.join(self._folders)}>"

    async def __aenter__(self) -> "AsyncEmbeddedClient":
        await self._loaded()
        return self

    async def _loaded(self) -> EmbeddedClient:
        return await asyncio.shield(self._loading)

    async def _close(self) -> None:
        client = await self._loaded()
        await asyncio.to_thread(client.close)

    async def _reconstruct(
        self, index: str, measurement: Measurement, options: Options, timeout: float | None
    ) -> Result:
        return await self._answer(index, measurement, options, expiry(timeout))

    async def _reconstruct_many(
        self, index: str, batch: Batch, options: Options, timeout: float | None
    ) -> AsyncGenerator[Result | LemmseError, None]:
        expired = expiry(timeout)

        async def measurements() -> AsyncGenerator[Measurement | InvalidArgument, None]:
            while (measurement := await read(batch)) is not None:
                yield measurement

        async def outcomes() -> AsyncGenerator[Result | LemmseError, None]:
            async with aclosing(ahead(measurements())) as read_ahead:
                async for measurement in read_ahead:
                    self._require_open()
                    if isinstance(measurement, InvalidArgument):
                        yield measurement
                        continue
                    try:
                        outcome: Result | LemmseError = await self._answer(
                            index, measurement, options, expired
                        )
                    except DeadlineExceeded:
                        raise
                    except LemmseError as error:
                        outcome = error
                    yield outcome

        # While an image is computed, the next one is read and the caller uses the last result.
        async with aclosing(ahead(outcomes())) as answered:
            async for outcome in answered:
                self._require_open()
                yield outcome

    async def _explain(
        self, index: str, measurement: Measurement, options: ExplainOptions, timeout: float | None
    ) -> list[Contributor]:
        client = await self._loaded()
        return await _in_thread(
            lambda expired: client.contributors(index, measurement, options, expired), expiry(timeout)
        )

    async def _vjp(
        self,
        index: str,
        measurement: Measurement,
        vector: FloatArray,
        options: Options,
        timeout: float | None,
    ) -> NDArray[np.float32]:
        client = await self._loaded()
        return await _in_thread(
            lambda over: client.product(index, measurement, vector, options, over), expiry(timeout)
        )

    async def _estimate_noise(
        self, index: str, measurement: Measurement, timeout: float | None
    ) -> NoiseEstimate:
        client = await self._loaded()
        return await _in_thread(lambda expired: client.noise(index, measurement, expired), expiry(timeout))

    async def _list_indexes(self, timeout: float | None) -> list[IndexInfo]:
        return (await self._loaded()).list_indexes()

    async def _get_index(self, name: str, timeout: float | None) -> IndexInfo:
        return (await self._loaded()).get_index(name)

    async def _answer(
        self, index: str, measurement: Measurement, options: Options, expired: Expired
    ) -> Result:
        client = await self._loaded()
        return await _in_thread(lambda over: client.answer(index, measurement, options, over), expired)


async def _in_thread(work: Callable[[Expired], T], expired: Expired) -> T:
    """Return the result of work in a thread, which stops when this is cancelled."""
    cancelled = Event()
    try:
        return await asyncio.to_thread(work, lambda: cancelled.is_set() or expired())
    finally:
        cancelled.set()
