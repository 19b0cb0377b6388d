"""Errors of the builder and the estimator.

    EngineError                  whatever a user or an operator can mend
    ├── InvalidArgument          an argument that cannot be meant        INVALID_ARGUMENT
    │   └── TooFewImages         none can be held out of an index        INVALID_ARGUMENT
    ├── NotFound                 what was named is not there             NOT_FOUND
    ├── AlreadyExists            the place to write to is taken          ALREADY_EXISTS
    ├── UnsupportedFormat        an index this version cannot read       FAILED_PRECONDITION
    ├── DataLoss                 an index that is not what was written   DATA_LOSS
    ├── Unavailable              workers that are to answer are gone     UNAVAILABLE
    └── Cancelled                nobody waits for the answer any more    CANCELLED

Each class carries its canonical status code by name, so that every edge (command line, gRPC, embedded
client) maps it without a table of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

__all__ = [
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "EngineError",
    "InvalidArgument",
    "NotFound",
    "TooFewImages",
    "Unavailable",
    "UnsupportedFormat",
    "about_index",
]


class EngineError(Exception):
    """Base of all errors that are raised on purpose; the message is one line for a user."""

    code: ClassVar[str]


class InvalidArgument(EngineError, ValueError):
    """An argument is not what was expected.

    Parameters
    ----------
    argument : str
        Name of the argument, as the caller wrote it.
    expected : str
        What was expected and what came, in one line.

    Examples
    --------
    >>> print(InvalidArgument("sigma", "expected a number > 0, got -1.0"))
    sigma: expected a number > 0, got -1.0
    """

    code = "INVALID_ARGUMENT"

    def __init__(self, argument: str, expected: str) -> None:
        super().__init__(f"{argument}: {expected}")
        self.argument = argument
        self.expected = expected

    def __reduce__(self) -> tuple[type["InvalidArgument"], tuple[str, str]]:
        """Have another process make it of the same parts."""
        return type(self), (self.argument, self.expected)


class TooFewImages(InvalidArgument):
    """An index of which no training image can be held out, and still has others like it."""


class NotFound(EngineError, LookupError):
    """What was named is not there."""

    code = "NOT_FOUND"


class AlreadyExists(EngineError):
    """The place to write to is taken."""

    code = "ALREADY_EXISTS"


class UnsupportedFormat(EngineError):
    """The index has a format that this version cannot read."""

    code = "FAILED_PRECONDITION"


class DataLoss(EngineError):
    """The index is not what was written: a file is missing, cut short or altered."""

    code = "DATA_LOSS"


class Unavailable(EngineError):
    """Workers that are to answer are gone, or whom they are asked through; it may be tried again."""

    code = "UNAVAILABLE"


class Cancelled(EngineError):
    """Nobody waits for the answer any more."""

    code = "CANCELLED"


@contextmanager
def about_index(name: str, version: str) -> Iterator[None]:
    """Say which index it is that the block cannot read."""
    try:
        yield
    except (DataLoss, UnsupportedFormat) as error:
        raise type(error)(f"index {name!r} version {version}: {error}") from error
