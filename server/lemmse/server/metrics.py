"""The metrics of the server, for Prometheus.

Those of calls have the names of grpc-ecosystem's interceptors. `Metrics` serves them over HTTP, together with
those that prometheus-client has of the process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import Counter, Gauge, Histogram

from lemmse.contract.errors import Unavailable
from lemmse.contract.results import Diagnostics
from lemmse.server.metrics_server import MetricsServer

__all__ = [
    "HANDLED",
    "HANDLING_SECONDS",
    "INDEX_BYTES",
    "LOG_LINES_DROPPED",
    "QUEUE_LENGTH",
    "QUEUE_WORK",
    "STARTED",
    "Metrics",
    "answered",
    "phase",
]

_CALL = ("grpc_type", "grpc_service", "grpc_method")
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
_DECIBELS = (20, 30, 35, 40, 45, 50, 55, 60, 70, 80, 100, 120)

STARTED = Counter("grpc_server_started_total", "Calls that began.", _CALL)
HANDLED = Counter("grpc_server_handled_total", "Calls that ended, by status.", (*_CALL, "grpc_code"))
HANDLING_SECONDS = Histogram(
    "grpc_server_handling_seconds", "Seconds from the begin of a call to its end.", _CALL, buckets=_SECONDS
)
PHASE_SECONDS = Histogram(
    "lemmse_phase_seconds",
    "Seconds of one image or explanation in a phase: queue, decode, compute, encode.",
    ("phase",),
    buckets=_SECONDS,
)
QUEUE_LENGTH = Gauge("lemmse_queue_length", "Images and explanations that wait or are computed.")
QUEUE_WORK = Gauge("lemmse_queue_work", "Their estimated work, in multiply-adds.")
PIXELS = Counter("lemmse_pixels_total", "Pixels answered.", ("index", "mode"))
KEYS_EVALUATED = Counter(
    "lemmse_keys_evaluated_total", "Keys whose distance was computed.", ("index", "mode")
)
ASKED_ACCURACY = Histogram(
    "lemmse_asked_accuracy_db",
    "Agreement with exact that answers in mode hybrid were asked for, in dB.",
    ("index",),
    buckets=_DECIBELS,
)
ESTIMATED_ACCURACY = Histogram(
    "lemmse_estimated_accuracy_db",
    "Estimated agreement with exact of answers in mode hybrid, in dB.",
    ("index",),
    buckets=_DECIBELS,
)
INDEX_BYTES = Gauge(
    "lemmse_index_bytes", "Bytes of the files of an index, most of them memory-mapped.", ("index",)
)
LOG_LINES_DROPPED = Counter("lemmse_log_lines_dropped_total", "Log lines that found the queue full.")


class Stopwatch:
    """The seconds of a phase that has several pieces: the time within its `with` blocks.

    Parameters
    ----------
    name : str
        The phase: queue, decode, compute or encode.
    """

    def __init__(self, name: str) -> None:
        self._name, self._seconds, self._begin = name, 0.0, 0.0

    def __enter__(self) -> None:
        self._begin = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds += perf_counter() - self._begin

    def observe(self) -> None:
        """Count the phase."""
        PHASE_SECONDS.labels(self._name).observe(self._seconds)


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the seconds of the `with` block to a phase."""
    watch = Stopwatch(name)
    try:
        with watch:
            yield
    finally:
        watch.observe()


@contextmanager
def queued(work: float) -> Iterator[Callable[[float], None]]:
    """Count the `with` block to the queue, and its seconds to the phases queue and compute.

    Parameters
    ----------
    work : float
        Its estimated work, in multiply-adds.

    Yields
    ------
    callable
        To be called with the seconds of computation, if there was any; the others were those of the queue.
    """
    computed: float | None = None

    def used(seconds: float) -> None:
        nonlocal computed
        computed = seconds

    begin = perf_counter()
    QUEUE_LENGTH.inc()
    QUEUE_WORK.inc(work)
    try:
        yield used
    finally:
        QUEUE_LENGTH.dec()
        QUEUE_WORK.dec(work)
        if computed is not None:
            PHASE_SECONDS.labels("compute").observe(computed)
            PHASE_SECONDS.labels("queue").observe(max(perf_counter() - begin - computed, 0.0))


def answered(diagnostics: Diagnostics, pixels: int, asked_db: float | None) -> None:
    """Count an answer.

    Parameters
    ----------
    diagnostics : Diagnostics
        How it was computed.
    pixels : int
        Pixels of the image.
    asked_db : float or None
        The agreement that was asked for, in dB; counted in mode hybrid only.
    """
    PIXELS.labels(diagnostics.index, diagnostics.mode).inc(pixels)
    KEYS_EVALUATED.labels(diagnostics.index, diagnostics.mode).inc(diagnostics.keys_touched * pixels)
    if diagnostics.mode == "hybrid":
        if asked_db is not None:
            ASKED_ACCURACY.labels(diagnostics.index).observe(asked_db)
        if diagnostics.estimated_accuracy_db is not None:
            ESTIMATED_ACCURACY.labels(diagnostics.index).observe(diagnostics.estimated_accuracy_db)


class Metrics:
    """Serves the metrics at http://HOST:PORT/metrics, from threads of its own.

    Parameters
    ----------
    listen : str
        HOST:PORT; port 0 takes a free one.

    Raises
    ------
    Unavailable
        It cannot listen there.
    """

    def __init__(self, listen: str) -> None:
        host, _, port = listen.rpartition(":")
        try:
            self._server = MetricsServer(host.strip("[]"), int(port))
        except OSError as error:
            raise Unavailable(f"metrics-listen: cannot listen on {listen}: {error.strerror}") from error
        self.address = f"{host}:{self._server.server_port}"
        """Where it listens, HOST:PORT."""

    def close(self) -> None:
        """Stop listening."""
        self._server.close()
