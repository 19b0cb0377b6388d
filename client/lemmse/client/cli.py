"""The command `lemmse`. Each subcommand is imported when it is called, since most need an extra."""

import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from lemmse.client.exits import INTERRUPTED, exit_status, report
from lemmse.client.extras import required
from lemmse.contract.threads import keep_threads_from_spinning

__all__ = ["main"]


class _Lazy(NamedTuple):
    """A subcommand that has not been imported."""

    target: str
    """Location of the click command, MODULE:NAME."""
    summary: str
    """Its line in the help of `lemmse`."""


_COMMANDS = {
    "build": _Lazy("lemmse.builder.build:build", "Build an index from images."),
    "calibrate": _Lazy(
        "lemmse.builder.calibrate:calibrate", "Measure hybrid against exact on held-out images."
    ),
    "demo": _Lazy("lemmse.client.demo:demo", "Build, serve and reconstruct photographs; draw the result."),
    "estimate-noise": _Lazy(
        "lemmse.client.estimate_noise:estimate_noise", "Estimate the noise in image files."
    ),
    "explain": _Lazy("lemmse.client.explain:explain", "Name the training patches that make a pixel."),
    "explore": _Lazy("lemmse.explorer.command:explore", "Try indexes on a page in the browser."),
    "health": _Lazy("lemmse.client.health:health", "Ask servers whether they can answer."),
    "inspect": _Lazy("lemmse.builder.inspect:inspect", "Describe an index, and verify it."),
    "reconstruct": _Lazy("lemmse.client.reconstruct:reconstruct", "Reconstruct image files and folders."),
    "sample": _Lazy("lemmse.client.sample:sample", "Draw images from what an index describes."),
    "serve": _Lazy("lemmse.server.command:serve", "Serve indexes over gRPC."),
    "token": _Lazy("lemmse.server.token_command:token", "Make a token for callers of a server."),
}


class _LazyGroup(click.Group):
    """A group that imports subcommands when they are called and reports errors as one line on stderr."""

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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Those of click's group import every command that fits, to read its help.
        names = [
            CompletionItem(name, help=lazy.summary)
            for name, lazy in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def main(self, *args: Any, **extra: Any) -> Any:
        _prepare_streams()
        keep_threads_from_spinning()
        # gRPC's core would write lines of its own to stderr, as of a certificate that is not trusted.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        try:
            with _signals_as_exceptions(), _warnings_as_lines(), required("this command"):
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


def _prepare_streams() -> None:
    """Make stdout and stderr accept any text: discard it if closed, escape what cannot be encoded."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  open to the end
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Write warnings of Python as one line each to stderr."""
    before = warnings.showwarning
    warnings.showwarning = lambda message, *details, **more: report(message, "warning")
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raise SystemExit on the signals that end a process, so that a half-written folder is removed."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # A signal that is already ignored, as under nohup, stays ignored.
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@click.group(cls=_LazyGroup, no_args_is_help=False)
@click.version_option(package_name="lemmse", message="%(prog)s %(version)s")
def main() -> None:
    """Reconstruct images without a network: the LE-MMSE estimator as an indexed service.

    Exit status: 0 done, 1 failed, 2 bad input or command line, 130 interrupted.
    """


if __name__ == "__main__":
    main(prog_name="lemmse")
