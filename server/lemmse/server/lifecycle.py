"""The life cycle of the server: load, listen, answer, drain."""

import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lemmse.contract.errors import Unavailable
from lemmse.contract.limits import MESSAGE_BYTES
from lemmse.estimator import Registry
from lemmse.server.compute import Compute
from lemmse.server.config import ServerConfig
from lemmse.server.service import IndexServicer, ReconstructionServicer
from lemmse.v1 import index_pb2, index_pb2_grpc, reconstruction_pb2, reconstruction_pb2_grpc

__all__ = ["Server", "serve"]

_LOG = logging.getLogger(__name__)

_SERVICES = (
    reconstruction_pb2.DESCRIPTOR.services_by_name["ReconstructionService"].full_name,
    index_pb2.DESCRIPTOR.services_by_name["IndexService"].full_name,
)

# Each admitted call waits in its own thread; spare threads serve calls that never wait, such as health
# checks.
_SPARE_THREADS = 8

_STOPPING = (signal.SIGTERM, signal.SIGINT)

_OPTIONS = (
    # Otherwise a second server on the same port starts without an error and receives half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
)


class Server:
    """A server that listens and answers as soon as it is constructed.

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
        self._registry = Registry.load(
            config.indexes, device=config.device, exact_work=config.exact_work, scheduler=config.scheduler
        )
        for reconstructor in self._registry:
            reconstructor.prepare()
        self._compute = Compute(threads=config.threads, queue=config.queue)
        self._handlers = ThreadPoolExecutor(self._compute.places + _SPARE_THREADS, "call")
        self._health = health.HealthServicer()
        self._server = grpc.server(self._handlers, options=_OPTIONS)
        reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server(
            ReconstructionServicer(self._registry, self._compute), self._server
        )
        index_pb2_grpc.add_IndexServiceServicer_to_server(IndexServicer(self._registry), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        try:
            port = self._server.add_insecure_port(config.listen)
        except RuntimeError as error:
            raise Unavailable(
                f"listen: cannot listen on {config.listen}: it is in use or not an address of this machine"
            ) from error
        self.address = f"{config.host}:{port}"
        """Address of the listening socket, HOST:PORT."""
        self._server.start()
        for service in ("", *_SERVICES):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace: float) -> None:
        """Reject new calls, let running calls finish, and then shut down.

        Parameters
        ----------
        grace : float
            Time in seconds after which running calls are cancelled.
        """
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()
        self._handlers.shutdown()
        self._compute.close()
        self._registry.close()


def serve(config: ServerConfig, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Call it in the main thread.

    Parameters
    ----------
    config : ServerConfig
        The settings.
    ready : callable
        Called with the address, HOST:PORT, once the server answers.
    """
    server = Server(config)
    # Unlike Event.set, put of a SimpleQueue is reentrant, so that a signal handler may call it.
    signals: SimpleQueue[signal.Signals] = SimpleQueue()
    for number in _STOPPING:
        signal.signal(number, lambda caught, _frame: signals.put(signal.Signals(caught)))
    ready(server.address)
    caught = signals.get()
    # A second signal ends the process at once.
    for number in _STOPPING:
        signal.signal(number, signal.SIG_DFL)
    _LOG.info("%s: stopping; running calls have %g s to finish", caught.name, config.grace)
    server.stop(config.grace)
    _LOG.info("stopped")
