"""Errors of client, server, builder and estimator: one tree, with a class for each canonical status code.

    LemmseError
    ├── RequestError             the request cannot be answered as it is
    │   ├── InvalidArgument      an argument is invalid; also a ValueError
    │   │   ├── MalformedMessage a message breaks the wire contract
    │   │   └── TooFewImages     an index has too few images to hold one out
    │   ├── OutOfRange           an argument is past the valid range
    │   ├── NotFound             what was named does not exist; also a LookupError
    │   ├── AlreadyExists        the output exists already
    │   ├── FailedPrecondition   something must be done first, for example an extra installed
    │   │   └── UnsupportedFormat  an index of a format that this version cannot read
    │   ├── Unauthenticated      the server does not know the caller
    │   ├── PermissionDenied     the caller may not do this
    │   └── Unimplemented        the server does not offer this
    └── ServiceError             the request may be fine, the service was not
        ├── Unavailable          no server or no workers answer; a later attempt may succeed
        ├── ResourceExhausted    too many calls wait, or an answer is too large
        ├── DeadlineExceeded     the timeout passed first; also a TimeoutError
        ├── Cancelled            the call was cancelled
        ├── Aborted              the call conflicted with another one
        ├── DataLoss             an index is damaged: a file is missing, cut short or altered
        ├── Internal             a fault of the server
        └── Unknown              a fault of something in between

The `code` of a class is the name of its canonical status code, as in gRPC.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

__all__ = [
    "BY_CODE",
    "Aborted",
    "AlreadyExists",
    "Cancelled",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "LemmseError",
    "MalformedMessage",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "RequestError",
    "ResourceExhausted",
    "ServiceError",
    "TooFewImages",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "UnsupportedFormat",
    "Violation",
]


@dataclass(frozen=True, slots=True)
class Violation:
    """An invalid argument."""

    field: str
    """Name of the argument, or path of the message field."""
    description: str
    """What was expected and what came, in one line."""


class LemmseError(Exception):
    """Base of all errors that lemmse raises on purpose.

    Parameters
    ----------
    message : str
        What happened, in one line.
    violations : tuple of Violation
        The invalid arguments that caused it, if any did.
    """

    code: ClassVar[str]

    def __init__(self, message: str, violations: tuple[Violation, ...] = ()) -> None:
        super().__init__(message)
        self.violations = violations


class RequestError(LemmseError):
    """The request cannot be answered as it is."""


class ServiceError(LemmseError):
    """The request may be fine, the service was not."""


class InvalidArgument(RequestError, ValueError):
    """An argument is invalid."""

    code = "INVALID_ARGUMENT"

    @classmethod
    def of(cls, argument: str, expected: str) -> Self:
        """Return the error of one argument.

        Parameters
        ----------
        argument : str
            Name of the argument, as the caller wrote it.
        expected : str
            What was expected and what came, in one line.

        Examples
        --------
        >>> error = InvalidArgument.of("sigma", "expected a number > 0, got -1.0")
        >>> print(error)
        sigma: expected a number > 0, got -1.0
        >>> error.argument, error.expected
        ('sigma', 'expected a number > 0, got -1.0')
        """
        return cls(f"{argument}: {expected}", (Violation(argument, expected),))

    @property
    def argument(self) -> str:
        """Name of the invalid argument; empty if none was named."""
        return self.violations[0].field if self.violations else ""

    @property
    def expected(self) -> str:
        """What was expected and what came; the whole message if no argument was named."""
        return self.violations[0].description if self.violations else str(self)


class MalformedMessage(InvalidArgument):
    """A message breaks the wire contract; its argument is the path of a field.

    Examples
    --------
    >>> print(MalformedMessage.of("y.shape", "expected lengths >= 1, got (0, 3)"))
    y.shape: expected lengths >= 1, got (0, 3)
    """


class TooFewImages(InvalidArgument):
    """An index has too few training images to hold one out."""


class OutOfRange(RequestError):
    """An argument is past the valid range."""

    code = "OUT_OF_RANGE"


class NotFound(RequestError, LookupError):
    """What was named does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(RequestError):
    """The output exists already."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(RequestError):
    """Something must be done first."""

    code = "FAILED_PRECONDITION"


class UnsupportedFormat(FailedPrecondition):
    """An index has a format that this version cannot read."""


class Unauthenticated(RequestError):
    """The server does not know the caller."""

    code = "UNAUTHENTICATED"


class PermissionDenied(RequestError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"


class Unimplemented(RequestError):
    """The server does not offer this."""

    code = "UNIMPLEMENTED"


class Unavailable(ServiceError):
    """No server, or none of the workers that hold the index, answers; a later attempt may succeed."""

    code = "UNAVAILABLE"


class ResourceExhausted(ServiceError):
    """Too many calls wait, or an answer is too large."""

    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(ServiceError, TimeoutError):
    """The timeout passed before the answer came."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(ServiceError):
    """The call was cancelled."""

    code = "CANCELLED"


class Aborted(ServiceError):
    """The call conflicted with another one."""

    code = "ABORTED"


class DataLoss(ServiceError):
    """An index is damaged: a file is missing, cut short or altered."""

    code = "DATA_LOSS"


class Internal(ServiceError):
    """A fault of the server."""

    code = "INTERNAL"


class Unknown(ServiceError):
    """A fault of something in between."""

    code = "UNKNOWN"


BY_CODE: dict[str, type[LemmseError]] = {
    cls.code: cls for group in (RequestError, ServiceError) for cls in group.__subclasses__()
}
"""The class of each canonical status code, by the code's name."""
