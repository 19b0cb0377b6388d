"""Settings of the server."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from lemmse.contract.address import Address
from lemmse.server.settings import Setting, at_least, between, validate

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
    listen: Annotated[str, Setting("Where to listen; port 0 takes a free one.", _address, "HOST:PORT")] = (
        "127.0.0.1:50051"
    )
    threads: Annotated[int, Setting("Threads of one computation.", between(1, 4096), default="all cores")] = (
        field(default_factory=_available_cpus)
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], Setting("Where to compute.")] = "auto"
    exact_work: Annotated[
        float | None,
        Setting(
            "Pixels x keys x patch length up to which mode auto answers exactly.", at_least(0), default="1e11"
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
    queue: Annotated[int, Setting("Calls that may wait while one is computed.", at_least(0))] = 32
    idle_timeout: Annotated[
        float,
        Setting("Seconds within which a client must send its next message.", between(0.001, _DAY, "seconds")),
    ] = 60.0
    grace: Annotated[
        float,
        Setting("Seconds that running calls get when the server stops.", between(0, _DAY, "seconds")),
    ] = 10.0

    def __post_init__(self) -> None:
        validate(self)

    @property
    def address(self) -> Address:
        """The host and the port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return Address(host, int(port))
