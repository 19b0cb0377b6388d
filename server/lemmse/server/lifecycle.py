"""The life cycle of the server: load, listen, answer, drain."""

import asyncio
import faulthandler
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lemmse.index.storage.lost_pages import survive
from lemmse.server.admin import AdminServicer
from lemmse.server.catalogue import Catalogue
from lemmse.server.compute import Compute
from lemmse.server.config import ServerConfig
from lemmse.server.connections import channel_options, raise_open_files
from lemmse.server.health import Health
from lemmse.server.heap import keep_trimmed
from lemmse.server.interceptor import Interceptor
from lemmse.server.listening import listen
from lemmse.server.loop import LoopThread
from lemmse.server.metrics import Metrics
from lemmse.server.receiving import Receiving
from lemmse.server.sending import Sending
from lemmse.server.service import IndexServicer, ReconstructionServicer
from lemmse.server.tokens import Tokens
from lemmse.server.watch import watch
from lemmse.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
    reconstruction_pb2,
    reconstruction_pb2_grpc,
)

__all__ = ["Server", "serve"]

_LOG = logging.getLogger(__name__)

_SERVICES = (
    reconstruction_pb2.DESCRIPTOR.services_by_name["ReconstructionService"].full_name,
    index_pb2.DESCRIPTOR.services_by_name["IndexService"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_STOPPING = (signal.SIGTERM, signal.SIGINT)


class Server:
    """A server that listens and answers as soon as it is constructed.

    Its event loop runs in a thread of its own.

    Parameters
    ----------
    config : ServerConfig
        The settings.

    Raises
    ------
    LemmseError
        An index cannot be loaded.
    Unavailable
        The address is in use, or is not an address of this machine.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._catalogue = Catalogue(config)
        self._compute = Compute(threads=config.threads, max_seconds=config.max_seconds)
        self._reconstruction = ReconstructionServicer(self._catalogue.registry, self._compute, config)
        self._loop = LoopThread("call-loop")
        self._reloading = asyncio.Lock()
        self._reload_waits = False
        self._resources = ExitStack()
        self.metrics_address: str | None = None
        """Where the metrics are served, HOST:PORT; None if they are not."""
        try:
            if config.metrics_listen is not None:
                metrics = self._resources.enter_context(closing(Metrics(config.metrics_listen)))
                self.metrics_address = metrics.address
                _LOG.info("metrics on http://%s/metrics", metrics.address)
            self.address = self._loop.run(self._start(config))
            """Address of the listening socket, HOST:PORT."""
        except BaseException:
            self._close()
            raise

    def stop(self, grace: float) -> None:
        """Reject new calls, let running calls finish, and then shut down.

        Parameters
        ----------
        grace : float
            Time in seconds after which running calls are cancelled.
        """
        self._loop.run(self._stop(grace))
        self._close()

    def reload(self) -> None:
        """Begin to load all indexes again, and return at once; those that cannot be loaded stay.

        One that has yet to begin does for all that are asked for meanwhile.
        """
        self._loop.start(self._reload())

    async def _stop(self, grace: float) -> None:
        self._health.stop()
        await self._server.stop(grace)

    async def _reload(self) -> None:
        if self._reload_waits:
            return
        self._reload_waits = True
        async with self._reloading:
            self._reload_waits = False
            await asyncio.to_thread(self._catalogue.reload)
            self._catalogue.tell(self._health)

    async def _start(self, config: ServerConfig) -> str:
        self._server = grpc.aio.server(
            interceptors=self._interceptors(config), options=channel_options(config)
        )
        self._health = Health()
        reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server(
            self._reconstruction, self._server
        )
        index_pb2_grpc.add_IndexServiceServicer_to_server(
            IndexServicer(self._catalogue.registry), self._server
        )
        admin_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminServicer(self._catalogue, self._health), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*_SERVICES, _HEALTH, reflection.SERVICE_NAME), self._server)
        address = listen(self._server, config)
        await self._server.start()
        self._health.update(dict.fromkeys(_SERVICES, True))
        self._catalogue.tell(self._health)
        self._loop.start(keep_trimmed())
        self._loop.start(watch(self._catalogue, self._health, take_up=config.watch))
        return str(address)

    def _interceptors(self, config: ServerConfig) -> tuple[grpc.aio.ServerInterceptor, ...]:
        """Return what every call passes, from the outside to the inside."""
        tokens = None if config.tokens is None else Tokens(config.tokens)
        observed: list[grpc.aio.ServerInterceptor] = [Sending(config.idle_timeout), Interceptor(tokens)]
        if config.tracing:
            # Imported here because it needs an extra of its own.
            from lemmse.server.tracing import Tracing

            observed.append(self._resources.enter_context(closing(Tracing())))
        main = reconstruction_pb2.DESCRIPTOR.services_by_name["ReconstructionService"].full_name
        receiving = Receiving(
            idle_timeout=config.idle_timeout, calls=config.calls, memory=config.memory, main=main
        )
        return (*observed, receiving)

    def _close(self) -> None:
        self._loop.close()
        self._compute.close()
        self._reconstruction.close()
        self._catalogue.close()
        self._resources.close()


def serve(config: ServerConfig, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Call it in the main thread.

    SIGHUP loads all indexes again.

    Parameters
    ----------
    config : ServerConfig
        The settings.
    ready : callable
        Called with the address, HOST:PORT, once the server answers.
    """
    faulthandler.enable()  # a fault that nobody can survive is told where it happened
    survive()
    raise_open_files()
    with _caught() as signals:
        _catch(signal.SIGHUP)  # while the server starts, too
        server = Server(config)
        for number in _STOPPING:
            _catch(number)
        ready(server.address)
        while (caught := next(signals)) is signal.SIGHUP:
            _LOG.info("SIGHUP: loading all indexes again")
            server.reload()
    # A second signal ends the process at once.
    for number in _STOPPING:
        signal.signal(number, signal.SIG_DFL)
    _LOG.info("%s: stopping; running calls have %g s to finish", caught.name, config.grace)
    server.stop(config.grace)
    _LOG.info("stopped")


@contextmanager
def _caught() -> Iterator[Iterator[signal.Signals]]:
    """Yield an iterator over the caught signals, which waits for the next one.

    The system may hand a signal to any thread, and Python then runs its handler only when the main thread
    next runs, which a wait for a lock or a queue would prevent; what it writes to a descriptor ends a read.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield map(signal.Signals, _bytes(reader))
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


def _bytes(descriptor: int) -> Iterator[int]:
    while data := os.read(descriptor, 1):
        yield data[0]


def _catch(number: signal.Signals) -> None:
    signal.signal(number, lambda *_: None)
