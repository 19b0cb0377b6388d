"""The command `lemmse`; each subcommand is imported when it is called, since most need an extra."""

import sys
from importlib import import_module
from typing import Any, NamedTuple

import click

from lemmse.client.exits import INTERRUPTED, exit_status, report
from lemmse.client.extras import required

__all__ = ["main"]


class _Lazy(NamedTuple):
    """A subcommand that is not imported yet."""

    target: str
    """MODULE:NAME of the click command."""
    summary: str
    """Its line in the help."""


_COMMANDS = {
    "build": _Lazy("lemmse.index.cli:build", "Build an index from images."),
    "demo": _Lazy("lemmse.client.demo:demo", "Build, serve and reconstruct photographs; draw the result."),
    "inspect": _Lazy("lemmse.index.cli:inspect", "Verify an index and tell what it holds."),
    "reconstruct": _Lazy("lemmse.client.reconstruct:reconstruct", "Reconstruct image files and folders."),
    "serve": _Lazy("lemmse.server.cli:serve", "Serve indexes over gRPC."),
}


class _LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, and ends with one line on stderr on errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in _COMMANDS.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            with required("this command"):
                status = super().main(*args, **extra | {"standalone_mode": False})
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "lemmse"
            report(f"{error.format_message()} (see '{command} --help')")
            status = error.exit_code
        except click.ClickException as error:
            report(error.format_message())
            status = error.exit_code
        except click.Abort:
            status = INTERRUPTED
        except Exception as error:
            status = exit_status(error)
            if status is None:
                raise
            report(error)
        sys.exit(status)


@click.group(cls=_LazyGroup, no_args_is_help=False)
@click.version_option(package_name="lemmse", message="%(prog)s %(version)s")
def main() -> None:
    """Reconstruct images without a network: the LE-MMSE estimator as an indexed service.

    Exit status: 0 done, 1 failed, 2 bad input or command line.
    """


if __name__ == "__main__":
    main(prog_name="lemmse")
