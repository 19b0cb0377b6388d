"""The interface of an asyncio client: the methods of `lemmse.client.Client`, to be awaited.

They validate their arguments in the methods of `Client`, which return what `_reconstruct` and the like
return: here, something to await.
"""

import asyncio
import functools
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.client.arguments import time_left
from lemmse.client.interface import Client, Closable, without_server
from lemmse.client.mosaic import Mosaic, settled
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, NoiseEstimate, Result
from lemmse.contract.tensors import FloatArray

if TYPE_CHECKING:
    from lemmse.client.aio.admin import AsyncAdmin

__all__ = ["AsyncClient", "Batch", "awaited", "read"]

P = ParamSpec("P")
T = TypeVar("T")

Batch = Iterator[Measurement | InvalidArgument] | AsyncIterator[Measurement | InvalidArgument]
"""The measurements of a batch, with an error in place of each invalid one."""


def awaited(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return a method of a synchronous class, which returns something to await, as a coroutine function."""

    async def coroutine(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return cast(T, await cast(Any, method)(self, *args, **kwargs))

    return functools.update_wrapper(coroutine, method)


def _iterated(
    method: Callable[Concatenate[Client, Iterable[ArrayLike], P], Generator[T, None, None]],
) -> Callable[
    Concatenate["AsyncClient", Iterable[ArrayLike] | AsyncIterable[ArrayLike], P], AsyncGenerator[T, None]
]:
    """Return a generator method of `Client` as an asynchronous one, which takes asynchronous images too."""
    return cast(Any, method)  # type: ignore[no-any-return]


class AsyncClient(Closable, ABC):
    """A connection to indexes, returned by `connect`. Close it, or use it in an `async with` statement.

    The methods have the arguments, results and errors of those of `lemmse.client.Client`. All but
    `reconstruct_many` are coroutine functions; that one returns an asynchronous generator, and takes images
    from an iterable or an asynchronous iterable.

    Examples
    --------
    >>> async def denoise(y):
    ...     async with connect("grpc://localhost:50051") as lemmse:
    ...         return (await lemmse.reconstruct(y, sigma=0.1)).image
    """

    reconstruct = awaited(Client.reconstruct)
    reconstruct_many = _iterated(Client.reconstruct_many)
    explain = awaited(Client.explain)
    vjp = awaited(Client.vjp)
    estimate_noise = awaited(Client.estimate_noise)
    list_indexes = awaited(Client.list_indexes)
    get_index = awaited(Client.get_index)

    @property
    def admin(self) -> "AsyncAdmin":
        """Changes of the indexes of the server; see `lemmse.client.Client.admin`."""
        raise without_server("admin")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; later calls raise FailedPrecondition."""
        if not self._closed:
            self._closed = True
            await self._close()

    async def assemble(self, index: str, mosaic: Mosaic, options: Options, timeout: float | None) -> Result:
        """Return the reconstruction of an image that is divided into tiles, as `Client.assemble` does.

        Tiles are read and written in threads.
        """
        left = time_left(timeout)
        if (sample := await asyncio.to_thread(lambda: mosaic.sample)) is not None:
            mosaic.settle(await self._estimate_noise(index, sample, left()))
        if options.quality == "best":
            answer = await self._reconstruct(
                index, await asyncio.to_thread(lambda: mosaic.probe), options, left()
            )
            index, options = settled(answer, options)
        mosaic.begin(await self._get_index(index, left()), options)
        tiles = mosaic.measurements()

        async def measurements() -> AsyncIterator[Measurement | InvalidArgument]:
            while (tile := await asyncio.to_thread(next, tiles, None)) is not None:
                yield tile

        async with aclosing(self._reconstruct_many(index, measurements(), options, left())) as outcomes:
            async for outcome in outcomes:
                await asyncio.to_thread(mosaic.take, outcome)
        return mosaic.result()

    @abstractmethod
    async def _close(self) -> None: ...

    @abstractmethod
    async def _reconstruct(
        self, index: str, measurement: Measurement, options: Options, timeout: float | None
    ) -> Result: ...

    @abstractmethod
    def _reconstruct_many(
        self, index: str, batch: Batch, options: Options, timeout: float | None
    ) -> AsyncGenerator[Result | LemmseError, None]: ...

    @abstractmethod
    async def _explain(
        self, index: str, measurement: Measurement, options: ExplainOptions, timeout: float | None
    ) -> list[Contributor]: ...

    @abstractmethod
    async def _vjp(
        self,
        index: str,
        measurement: Measurement,
        vector: FloatArray,
        options: Options,
        timeout: float | None,
    ) -> NDArray[np.float32]: ...

    @abstractmethod
    async def _estimate_noise(
        self, index: str, measurement: Measurement, timeout: float | None
    ) -> NoiseEstimate: ...

    @abstractmethod
    async def _list_indexes(self, timeout: float | None) -> list[IndexInfo]: ...

    @abstractmethod
    async def _get_index(self, name: str, timeout: float | None) -> IndexInfo: ...


async def read(batch: Batch) -> Measurement | InvalidArgument | None:
    """Return the next measurement of a batch; None at its end."""
    if isinstance(batch, AsyncIterator):
        return await anext(batch, None)
    return next(batch, None)
