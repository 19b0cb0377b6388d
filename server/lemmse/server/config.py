"""Settings of the server."""

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from lemmse.contract.address import Address
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import MAX_CONTRIBUTORS
from lemmse.server.settings import Setting, above, at_least, between, validate

__all__ = ["ServerConfig"]

_DAY = 86400


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _address(value: str) -> str | None:
    return "HOST:PORT" if Address.parse(value) is None else None


def _some(value: tuple[Path, ...]) -> str | None:
    return None if value else "at least one index folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of a server, validated when they are created.

    Each field is also a flag of `lemmse serve`, an environment variable and a key of its file: see
    `lemmse.server.settings`.

    Raises
    ------
    InvalidArgument
        A setting is out of range.
    """

    indexes: Annotated[
        tuple[Path, ...], Setting("Index folders; each index has the name of its folder.", _some, "DIR")
    ]
    watch: Annotated[
        bool, Setting("Take up new versions and calibrations of the indexes as they are written.")
    ] = False
    admin_root: Annotated[
        Path | None,
        Setting("Folder below which AdminService may load indexes; it loads none without.", metavar="DIR"),
    ] = None
    listen: Annotated[str, Setting("Where to listen; port 0 takes a free one.", _address, "HOST:PORT")] = (
        "127.0.0.1:50051"
    )
    threads: Annotated[int, Setting("Threads of one computation.", between(1, 4096), default="all cores")] = (
        field(default_factory=_available_cpus)
    )
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Setting("Where to compute; with --scheduler, where workers do.")
    ] = "auto"
    exact_work: Annotated[
        float | None,
        Setting(
            "Pixels x keys x patch length up to which mode auto answers exactly on a CPU; 0 for never.",
            at_least(0),
            default="1e11",
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        Setting(
            "Hold the patches on the workers of a Dask cluster, which all see the folders under the same "
            "paths.",
            metavar="ADDRESS",
        ),
    ] = None
    calls: Annotated[
        int,
        Setting(
            "Open calls of ReconstructionService, and of all other services; a new one ends the one that has "
            "been silent for longest.",
            at_least(1),
        ),
    ] = 1024
    queue: Annotated[int, Setting("Requests that may wait or compute.", at_least(1))] = 1024
    queue_work: Annotated[
        float,
        Setting(
            "Multiply-adds that may have to be done before a request is answered; inf for no limit.", above(0)
        ),
    ] = 1e15
    memory: Annotated[
        int,
        Setting(
            "Bytes of the images and maps of all requests, and of their answers. Messages that have arrived "
            "in part may take as much again (at least 512 MiB): 4 MiB for each call that waits for one.",
            at_least(1),
        ),
    ] = 2 << 30
    max_bytes: Annotated[
        int, Setting("Bytes of the images and maps of one request, and of its answer.", at_least(1))
    ] = 1 << 30
    max_pixels: Annotated[int, Setting("Pixels of one image.", at_least(1))] = 1 << 26
    max_work: Annotated[
        float,
        Setting(
            "Multiply-adds of one request: pixels x keys x patch length if exact; inf for no limit.", above(0)
        ),
    ] = 1e14
    max_seconds: Annotated[
        float, Setting("Seconds of computation of one request.", between(0.001, _DAY, "seconds"))
    ] = 3600.0
    max_k: Annotated[int, Setting("Neighbours of mode topk.", at_least(1))] = 1 << 20
    max_nprobe: Annotated[int, Setting("Cells of mode topk.", at_least(1))] = 1 << 16
    max_contributors: Annotated[
        int, Setting("Contributors of an explanation.", between(1, MAX_CONTRIBUTORS))
    ] = MAX_CONTRIBUTORS
    max_exclude: Annotated[int, Setting("Names of training images to exclude.", at_least(1))] = 4096
    max_items: Annotated[int, Setting("Images of one stream.", at_least(1))] = 1_000_000
    idle_timeout: Annotated[
        float,
        Setting(
            "Seconds within which a client must send its next message, or take its next answer of a stream.",
            between(0.001, _DAY, "seconds"),
        ),
    ] = 60.0
    grace: Annotated[
        float,
        Setting("Seconds that running calls get when the server stops.", between(0, _DAY, "seconds")),
    ] = 10.0
    connection_idle: Annotated[
        float,
        Setting("Seconds after which a connection without calls is closed.", between(1, _DAY, "seconds")),
    ] = 900.0
    connection_age: Annotated[
        float,
        Setting(
            "Seconds after which a connection takes no new calls; clients connect again.",
            between(1, _DAY, "seconds"),
        ),
    ] = 3600.0
    tls_cert: Annotated[
        Path | None,
        Setting("Certificate chain of the server, PEM; the port then speaks TLS.", metavar="FILE"),
    ] = None
    tls_key: Annotated[Path | None, Setting("Private key of --tls-cert, PEM.", metavar="FILE")] = None
    tls_client_ca: Annotated[
        Path | None,
        Setting("Accept only clients with a certificate of these authorities, PEM.", metavar="FILE"),
    ] = None
    tokens: Annotated[
        Path | None,
        Setting("Accept only callers with a token of this file; see `lemmse token`.", metavar="FILE"),
    ] = None
    metrics_listen: Annotated[
        str | None,
        Setting("Where to serve metrics for Prometheus, http://HOST:PORT/metrics.", _address, "HOST:PORT"),
    ] = None
    tracing: Annotated[
        bool, Setting("Send OpenTelemetry traces where OTEL_EXPORTER_OTLP_ENDPOINT says (extra tracing).")
    ] = False
    log_format: Annotated[Literal["text", "json"], Setting("Form of the log on stderr.")] = "text"
    insecure: Annotated[
        bool,
        Setting("Listen on an address that is not loopback without TLS, or without authentication."),
    ] = False

    def __post_init__(self) -> None:
        validate(self)
        if self.memory < 2 * self.max_bytes:
            _refuse(
                "memory",
                f"expected at least twice max-bytes, so that a request can arrive while another is computed, "
                f"got {self.memory} and {self.max_bytes}",
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            _refuse("tls-cert", "expected --tls-cert and --tls-key, got only one of them")
        if self.tls_client_ca is not None and self.tls_cert is None:
            _refuse("tls-client-ca", "expected --tls-cert and --tls-key with it, got neither")
        authenticated = self.tokens is not None or self.tls_client_ca is not None
        if not (self._is_loopback or self.insecure or (self.tls_cert is not None and authenticated)):
            _refuse(
                "listen",
                "expected TLS (--tls-cert) and authentication (--tokens, --tls-client-ca) on an address that "
                f"others can reach, got neither or one of them on {self.listen}; --insecure listens without",
            )

    @property
    def address(self) -> Address:
        """The host and the port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return Address(host, int(port))

    @property
    def _is_loopback(self) -> bool:
        try:
            return ip_address(self.address.host.strip("[]")).is_loopback
        except ValueError:
            return self.address.host == "localhost"


def _refuse(argument: str, expected: str) -> NoReturn:
    raise InvalidArgument.of(argument, expected)
