"""The interface of an asyncio client: the methods of `lemmse.client.Client`, to be awaited.

They validate their arguments in the methods of `Client`, which return what `_reconstruct` and the like
return: here, something to await.
"""

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
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.client.interface import Client, Closable
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, Result
from lemmse.contract.tensors import FloatArray

__all__ = ["AsyncClient", "Batch", "read"]

P = ParamSpec("P")
T = TypeVar("T")

Batch = Iterator[Measurement | InvalidArgument] | AsyncIterator[Measurement | InvalidArgument]
"""The measurements of a batch, with an error in place of each invalid one."""


def _awaited(
    method: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    """Return a method of `Client` as a coroutine function."""

    async def awaited(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return cast(T, await cast(Any, method)(self, *args, **kwargs))

    return functools.update_wrapper(awaited, method)


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

    reconstruct = _awaited(Client.reconstruct)
    reconstruct_many = _iterated(Client.reconstruct_many)
    explain = _awaited(Client.explain)
    vjp = _awaited(Client.vjp)
    list_indexes = _awaited(Client.list_indexes)
    get_index = _awaited(Client.get_index)

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
    async def _list_indexes(self, timeout: float | None) -> list[IndexInfo]: ...

    @abstractmethod
    async def _get_index(self, name: str, timeout: float | None) -> IndexInfo: ...


async def read(batch: Batch) -> Measurement | InvalidArgument | None:
    """Return the next measurement of a batch; None at its end."""
    if isinstance(batch, AsyncIterator):
        return await anext(batch, None)
    return next(batch, None)
