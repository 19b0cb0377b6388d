"""The command `lemmse serve`."""

import logging
import os
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from lemmse.server.config import ServerConfig

__all__ = ["serve"]

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = {f.name: f.default for f in fields(ServerConfig) if f.default is not MISSING}


def _setting(flag: str, **attributes: Any) -> Callable[[F], F]:
    """Return a click option for the setting of the same name, with the default of the setting."""
    default = _DEFAULTS.get(flag.removeprefix("--").replace("-", "_"))
    return click.option(flag, default=default, show_default=default is not None, **attributes)


@click.command
@click.argument("indexes", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@_setting("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
@_setting("--threads", type=int, help="Threads of one computation.  [default: all cores]")
@_setting("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
@_setting(
    "--exact-work",
    type=float,
    help="Pixels x keys x patch length up to which mode auto answers exactly.  [default: 1e11]",
)
@_setting(
    "--scheduler",
    metavar="ADDRESS",
    help="Hold the patches on the workers of a Dask cluster, which all see the folders under the same paths.",
)
@_setting("--queue", type=int, help="Calls that may wait while one is computed.")
@_setting("--idle-timeout", type=float, help="Seconds in which a client must send its next message.")
@_setting("--grace", type=float, help="Seconds that running calls get when the server stops.")
def serve(**settings: Any) -> None:
    """Serve index folders over gRPC, each under its folder's name.

    Prints `listening on HOST:PORT` once it answers. SIGTERM or Ctrl-C drains it: the health service reports
    NOT_SERVING, and running calls finish.
    """
    config = ServerConfig(**{name: value for name, value in settings.items() if value is not None})
    # OpenMP reads its variable when torch and FAISS are imported, as the next import does. gRPC's core would
    # log lines of its own if it cannot listen.
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from lemmse.server import lifecycle

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("lemmse").setLevel(logging.INFO)
    lifecycle.serve(config, lambda address: click.echo(f"listening on {address}"))
