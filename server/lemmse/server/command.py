"""The command `lemmse serve`."""

import logging
import os
from typing import Any

import click

from lemmse.server.config import ServerConfig
from lemmse.server.logs import Log
from lemmse.server.sources import as_toml, given, parameters

__all__ = ["serve"]

_VARIABLES = "LEMMSE_SERVE_"
_LAST_LINES = 1.0
"""Time for the last lines of the log at the end, in seconds."""


def _serve(print_config: bool, **values: Any) -> None:
    """Serve index folders over gRPC, each under its folder's name.

    Prints `listening on HOST:PORT` once it answers. SIGTERM or Ctrl-C drains it: the health service reports
    NOT_SERVING, and running calls finish.

    Every option can also be given as an environment variable, for example LEMMSE_SERVE_QUEUE=8, and as a key
    of the TOML file of --config, for example queue = 8. The folders are LEMMSE_SERVE_INDEXES, separated by
    colons, and the array indexes. The command line comes first, then the environment, then the file.
    """
    config = given(click.get_current_context(), ServerConfig, values)
    if print_config:
        click.echo(as_toml(config), nl=False)
        return
    # OpenMP reads its variable when torch and FAISS are imported, as the next import does.
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    from lemmse.server import lifecycle

    log = Log(config.log_format)
    logging.basicConfig(handlers=[log])
    logging.getLogger("lemmse").setLevel(logging.INFO)
    try:
        lifecycle.serve(config, lambda address: click.echo(f"listening on {address}"))
    finally:
        log.drain(_LAST_LINES)


_PRINT_CONFIG = click.Option(
    ["--print-config"], is_flag=True, help="Print the settings in effect as a TOML file, and exit."
)

serve = click.Command(
    "serve",
    callback=_serve,
    help=_serve.__doc__,
    params=[*parameters(ServerConfig, _VARIABLES), _PRINT_CONFIG],
)
