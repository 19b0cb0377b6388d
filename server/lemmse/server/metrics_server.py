"""An HTTP server for metrics that idle, slow and many clients do not exhaust."""

import socket
from collections import deque
from contextlib import suppress
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

__all__ = ["MetricsServer"]

_CONNECTIONS = 16
"""Connections at a time, each of which has a thread; a further one ends the oldest."""
_TIMEOUT = 10.0
"""Time in seconds that a client may be silent, or take nothing of the answer."""


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT

    def log_message(self, *_: Any) -> None:
        """Log nothing: scrapes come every few seconds."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves the metrics of the process at /metrics, from threads of its own.

    Parameters
    ----------
    host : str
        Where to listen.
    port : int
        The port; 0 takes a free one.

    Raises
    ------
    OSError
        It cannot listen there.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int) -> None:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        self.address_family = family
        self._connections: deque[Any] = deque()
        super().__init__((host, port), _Handler)
        self.set_app(make_wsgi_app())
        self._thread = Thread(target=self.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread."""
        if len(self._connections) >= _CONNECTIONS:
            with suppress(IndexError, OSError):  # it has just ended
                self._connections.popleft().shutdown(socket.SHUT_RDWR)
        self._connections.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with suppress(ValueError):  # it was ended
            self._connections.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client that leaves or is late is no error, and stderr may be stalled."""
