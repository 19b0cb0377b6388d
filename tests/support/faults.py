"""A TCP proxy in front of a server, whose connections fail as a test says."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Fault(Enum):
    """How a connection fails."""

    RESET = "reset"
    """Both sides see a reset."""
    FREEZE = "freeze"
    """Both sides see nothing more."""


@dataclass
class Proxy:
    """A running proxy."""

    upstream: int
    """Port of the server on 127.0.0.1."""
    port: int = 0
    delay: float = 0.0
    """Seconds for which each piece of data is held back."""
    faults: deque[tuple[int, Fault]] = field(default_factory=deque)
    """For one connection after the other, the bytes from the server after which it fails, and how."""
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.upstream)
        fault = self.faults.popleft() if self.faults else None
        pumps = [
            asyncio.create_task(self._pump(reader, back, None)),
            asyncio.create_task(self._pump(there, writer, fault)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if fault is not None and fault[1] is Fault.FREEZE and not pumps[0].done():
                pumps[0].cancel()
                await asyncio.wait(pumps)
                await reader.read()  # until the client gives up
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for side in (writer, back):
                reset(side)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        fault: tuple[int, Fault] | None,
    ) -> None:
        """Copy until the end, or until the connection is to fail."""
        left = fault[0] if fault else None
        while data := await source.read(4096):
            await asyncio.sleep(self.delay)
            sink.write(data[:left])
            await sink.drain()
            if left is not None:
                left -= len(data)
                if left <= 0:
                    return


def reset(side: asyncio.StreamWriter) -> None:
    """Close a connection so that its other end sees a reset."""
    sock: socket.socket = side.get_extra_info("socket")
    with suppress(OSError):  # the other end has closed it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.transport.abort()


@contextmanager
def faulty_proxy(loop: asyncio.AbstractEventLoop, upstream: int, **options: Any) -> Iterator[Proxy]:
    """Yield a proxy that runs in an event loop of another thread."""
    proxy = Proxy(upstream, **options)
    running: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
    stopping = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # a side is gone
            await proxy.serve(reader, writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if stopping:
            reset(writer)
            return
        task = loop.create_task(serve(reader, writer))
        running[task] = writer
        task.add_done_callback(lambda task: reset(running.pop(task)))

    async def start() -> asyncio.Server:
        return await asyncio.start_server(accept, "127.0.0.1", 0)

    async def stop() -> None:
        nonlocal stopping
        stopping = True
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)  # what has been aborted is closed

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
