"""Exit statuses of the command `lemmse`, and its error messages on stderr."""

import click

from lemmse.contract.errors import LemmseError
from lemmse.contract.lines import one_line

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "exit_status", "report"]

FAILED = 1
"""The command failed."""

BAD_INPUT = 2
"""The command line, or a file or index that it names, is invalid; nothing was changed."""

INTERRUPTED = 130
"""Ctrl-C."""

_BAD_INPUT_CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "DATA_LOSS"}


def exit_status(error: Exception) -> int | None:
    """Return the exit status for an error; None for an unexpected error, which is a bug.

    Examples
    --------
    >>> from lemmse.contract.errors import NotFound
    >>> exit_status(NotFound("nothing there")), exit_status(OSError("disk full")), exit_status(KeyError())
    (2, 1, None)
    """
    if isinstance(error, LemmseError):
        return BAD_INPUT if error.code in _BAD_INPUT_CODES else FAILED
    return FAILED if isinstance(error, OSError) else None


def report(message: object, kind: str = "error") -> None:
    """Write an error, a warning or a note as one line to stderr."""
    click.echo(f"lemmse: {kind}: {one_line(message)}", err=True)
