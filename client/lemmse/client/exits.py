"""How the command ends: the exit status, and one line on stderr."""

import click

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "exit_status", "report"]

FAILED = 1
"""Something went wrong."""

BAD_INPUT = 2
"""The command line or what it names is not as it should be; nothing was changed."""

INTERRUPTED = 130
"""Ctrl-C."""

_BAD_INPUT_CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "DATA_LOSS"}


def exit_status(error: Exception) -> int | None:
    """Return the exit status for an error of ours or of the system; None for a fault of the program.

    Errors of ours, of the client as of the engine, are those that carry the name of a status code.

    Examples
    --------
    >>> from lemmse.contract.errors import NotFound
    >>> exit_status(NotFound("nothing there")), exit_status(OSError("disk full")), exit_status(KeyError())
    (2, 1, None)
    """
    code = getattr(error, "code", None)
    if isinstance(code, str):
        return BAD_INPUT if code in _BAD_INPUT_CODES else FAILED
    return FAILED if isinstance(error, OSError) else None


def report(message: object) -> None:
    """Say in one line on stderr what went wrong."""
    click.echo(f"lemmse: error: {' '.join(str(message).split())}", err=True)
