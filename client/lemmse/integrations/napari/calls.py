"""Calls of the client that a thread waits for, and that can be cancelled.

The asyncio client stops the work of a call that is cancelled, at a server or in this process. It lives in an
event loop in a thread of its own.
"""

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker

from lemmse.client.aio import AsyncClient, connect
from lemmse.contract.errors import LemmseError

__all__ = ["Call", "Connection", "start"]

_POLL = 0.1
"""Seconds between two looks at the progress of a call."""

Pixels = Sequence[tuple[int, int]]
"""Pixels that are done and all pixels, as they were last reported; empty before."""


class Connection:
    """A client for a server or an index folder; the first call connects it.

    Parameters
    ----------
    target : str
        As of `lemmse.client.connect`.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._client: AsyncClient | None = None
        started: Future[asyncio.AbstractEventLoop] = Future()
        threading.Thread(target=self._run, args=(started,), name="lemmse-client", daemon=True).start()
        self._loop = started.result()

    def ask(self, method: str, *args: Any, **options: Any) -> "Future[Any]":
        """Begin a call of a method of the client; cancelling the future stops the work."""
        return asyncio.run_coroutine_threadsafe(self._ask(method, *args, **options), self._loop)

    def close(self) -> None:
        """Close the client and end its thread, without waiting; calls under way are cancelled."""
        self._loop.call_soon_threadsafe(self._over.set)

    async def _ask(self, method: str, *args: Any, **options: Any) -> Any:
        if self._client is None:
            self._client = connect(self._target)
        return await getattr(self._client, method)(*args, **options)

    def _run(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        with suppress(RuntimeError):  # at the end of the process, when no thread starts to close the client
            asyncio.run(self._live(started))

    async def _live(self, started: "Future[asyncio.AbstractEventLoop]") -> None:
        self._over = asyncio.Event()
        started.set_result(asyncio.get_running_loop())
        await self._over.wait()
        if self._client is not None:
            with suppress(LemmseError):  # of an index folder that could not be opened
                await self._client.close()


class Call(GeneratorWorker):
    """A thread of napari that waits for a call; `quit` cancels the call.

    Parameters
    ----------
    function, call, pixels
        `_waiting` and its arguments.
    """

    def __init__(self, function: Any, call: "Future[Any]", pixels: Pixels) -> None:
        super().__init__(function, call, pixels)
        self._call = call

    def quit(self) -> None:
        """Cancel the call; `returned` is not emitted."""
        super().quit()
        self._call.cancel()


def start(
    call: "Future[Any]",
    *,
    returned: Callable[["Future[Any]"], None],
    finished: Callable[[], None],
    yielded: Callable[[tuple[int, int]], None],
    pixels: Pixels = (),
) -> Call:
    """Start to wait for a call, in a thread of napari.

    Parameters
    ----------
    call : Future
        The call.
    returned : callable
        Called with the call, when it is done and not cancelled.
    finished : callable
        Called when it is done or cancelled, after `returned`.
    yielded : callable
        Called with the pixels, from time to time.
    pixels : sequence
        The progress of the call, which may change.
    """
    handlers = {"returned": returned, "finished": finished, "yielded": yielded}
    worker: Call = create_worker(_waiting, call, pixels, _worker_class=Call, _connect=handlers)
    return worker


def _waiting(call: "Future[Any]", pixels: Pixels) -> Generator[tuple[int, int], None, "Future[Any]"]:
    while not wait([call], _POLL).done:
        yield pixels[-1] if pixels else (0, 0)
    return call
