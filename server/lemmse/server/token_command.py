"""The command `lemmse token`."""

from pathlib import Path
from typing import get_args

import click

from lemmse.server.tokens import Role, add_token

__all__ = ["token"]


@click.command
@click.option("--role", required=True, type=click.Choice(get_args(Role)), help="What the token permits.")
@click.option(
    "--file",
    "path",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of `lemmse serve --tokens`; created if it is missing.",
)
def token(role: Role, path: Path) -> None:
    """Print a new token once, and append its hash to a file.

    A token of the role read may call everything but AdminService; one of the role admin, everything. Remove a
    line of the file to revoke its token: a running server reads the file again.
    """
    click.echo(add_token(path, role))
