"""Command-line flags that say which server to ask, and what to show it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lemmse.client.targets import as_server

__all__ = ["server_flags"]

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def server_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags to a command, which gets `server`, a target or None, and `secrets`.

    `secrets` are keywords of `connect`.
    """

    @functools.wraps(command)
    def combined(
        *,
        server: str | None,
        token_file: Path | None,
        root_certificates: Path | None,
        certificate: Path | None,
        key: Path | None,
        **others: Any,
    ) -> None:
        secrets = {
            "token": None if token_file is None else _read_token(token_file),
            "root_certificates": root_certificates,
            "certificate": certificate,
            "key": key,
        }
        command(server=None if server is None else as_server(server), secrets=secrets, **others)

    for flag in reversed(_FLAGS):
        combined = flag(combined)
    return combined


_FLAGS = (
    click.option(
        "--server",
        metavar="[grpcs://]HOST:PORT",
        help="Server to ask, with grpcs:// for TLS; or several that answer alike, separated by commas.  "
        "[default: the environment variable LEMMSE_SERVER]",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        type=_FILE,
        help="File of the token for the server.  [default: the token in LEMMSE_TOKEN]",
    ),
    click.option(
        "--root-certificates",
        metavar="FILE",
        type=_FILE,
        help="Certificates to trust instead of the usual ones, PEM.",
    ),
    click.option(
        "--certificate", metavar="FILE", type=_FILE, help="Certificate of this client, PEM; needs --key."
    ),
    click.option("--key", metavar="FILE", type=_FILE, help="Private key of --certificate, PEM."),
)


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"cannot read {path}: {error}", param_hint="--token-file") from error
    if not token:
        raise click.BadParameter(f"expected a token in {path}, got an empty file", param_hint="--token-file")
    return token
