"""An asyncio client behind the interface of the synchronous one, so that both run the same tests."""

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from lemmse.client.aio import AsyncClient


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Yield an event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="event-loop")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class Blocking:
    """An asyncio client whose methods wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Callable[[], AsyncClient]) -> None:
        self._loop = loop

        async def open_client() -> AsyncClient:
            return connect()

        self._client = self._wait(open_client())

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def __enter__(self) -> "Blocking":
        self._wait(self._client.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._wait(self._client.close())

    def reconstruct(self, *args: Any, **kwargs: Any) -> Any:
        return self._wait(self._client.reconstruct(*args, **kwargs))

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        return self._wait(self._client.explain(*args, **kwargs))

    def vjp(self, *args: Any, **kwargs: Any) -> Any:
        return self._wait(self._client.vjp(*args, **kwargs))

    def estimate_noise(self, *args: Any, **kwargs: Any) -> Any:
        return self._wait(self._client.estimate_noise(*args, **kwargs))

    def list_indexes(self, **kwargs: Any) -> Any:
        return self._wait(self._client.list_indexes(**kwargs))

    def get_index(self, name: str, **kwargs: Any) -> Any:
        return self._wait(self._client.get_index(name, **kwargs))

    def reconstruct_many(self, *args: Any, **kwargs: Any) -> Generator[Any, None, None]:
        outcomes = self._client.reconstruct_many(*args, **kwargs)

        def iterate() -> Generator[Any, None, None]:
            end = object()
            try:
                while (outcome := self._wait(anext(outcomes, end))) is not end:
                    yield outcome
            finally:
                self._wait(outcomes.aclose())

        return iterate()
