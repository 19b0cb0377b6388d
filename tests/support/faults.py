"""A TCP proxy in front of a server, whose connections fail as a test says."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
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
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.transport.abort()


@contextmanager
def faulty_proxy(loop: asyncio.AbstractEventLoop, upstream: int, **options: Any) -> Iterator[Proxy]:
    """Yield a proxy that runs in an event loop of another thread."""
    proxy = Proxy(upstream, **options)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        tasks.add(task)
        try:
            await proxy.serve(reader, writer)
        except (OSError, asyncio.CancelledError):  # a side is gone, or the test is over
            reset(writer)
        finally:
            tasks.discard(task)

    async def start() -> asyncio.Server:
        return await asyncio.start_server(accept, "127.0.0.1", 0)

    async def stop() -> None:
        server.close()
        running = list(tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
