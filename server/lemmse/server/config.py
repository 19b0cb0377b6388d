"""Settings of the server."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from lemmse.contract.address import Address
from lemmse.contract.errors import InvalidArgument

__all__ = ["ServerConfig"]

_DAY = 86400
_THREADS_MAX = 4096


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of a server, validated when they are created.

    Raises
    ------
    InvalidArgument
        A setting is out of range.
    """

    indexes: tuple[Path, ...]
    """Index folders; each index has the name of its folder."""
    listen: str = "127.0.0.1:50051"
    """Address to listen on, HOST:PORT; port 0 selects a free port."""
    threads: int = field(default_factory=_available_cpus)
    """Number of threads of one computation, 1 to 4096."""
    device: str = "auto"
    """Device of the computation: auto, cpu or cuda."""
    exact_work: float | None = None
    """Largest number of multiply-adds for which mode auto is exact, >= 0; None for the default."""
    scheduler: str | None = None
    """Address of a Dask scheduler whose workers hold the keys; None to hold them in this process."""
    queue: int = 32
    """Largest number of calls that wait while one is computed, >= 0; further ones are rejected."""
    idle_timeout: float = 60.0
    """Time within which a client must send the next message of a call, in seconds, > 0."""
    grace: float = 10.0
    """Time for running calls to finish when the server stops, in seconds, 0 to 86400 (one day)."""

    def __post_init__(self) -> None:
        if not self.indexes:
            _refuse("DIR", "expected at least one index folder, got none")
        if Address.parse(self.listen) is None:
            _refuse("listen", f"expected HOST:PORT, got {self.listen!r}")
        if not 1 <= self.threads <= _THREADS_MAX:
            _refuse("threads", f"expected a number from 1 to {_THREADS_MAX}, got {self.threads}")
        if self.queue < 0:
            _refuse("queue", f"expected a number >= 0, got {self.queue}")
        if self.exact_work is not None and not self.exact_work >= 0:  # rejects nan too
            _refuse("exact-work", f"expected a number >= 0, got {self.exact_work}")
        if not 0 < self.idle_timeout <= _DAY:
            _refuse("idle-timeout", f"expected seconds from 0 to {_DAY}, got {self.idle_timeout}")
        if not 0 <= self.grace <= _DAY:
            _refuse("grace", f"expected seconds from 0 to {_DAY}, got {self.grace}")

    @property
    def address(self) -> Address:
        """The host and the port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return Address(host, int(port))


def _refuse(argument: str, expected: str) -> NoReturn:
    raise InvalidArgument.of(argument, expected)
