"""The exceptions of client, server, builder and estimator, with one class for each canonical status code.

    LemmseError
    ├── RequestError             the request cannot be answered as it is
    │   ├── InvalidArgument      an argument is invalid; also a ValueError
    │   │   ├── MalformedMessage a message breaks the wire contract
    │   │   └── TooFewImages     an index has too few images to hold one out
    │   ├── OutOfRange           an argument is past the valid range
    │   ├── NotFound             an index, file or address does not exist; also a LookupError
    │   ├── AlreadyExists        the output exists already
    │   ├── FailedPrecondition   something must be done first, for example an extra installed
    │   │   └── UnsupportedFormat  an index of a format that this version cannot read
    │   ├── Unauthenticated      the server does not know the caller
    │   ├── PermissionDenied     the caller may not do this
    │   └── Unimplemented        the server does not offer this
    └── ServiceError             the service failed; the request may be valid
        ├── Unavailable          no server or worker answers; a later attempt may succeed
        ├── ResourceExhausted    too many calls are waiting, or an answer is too large
        ├── DeadlineExceeded     the timeout passed first; also a TimeoutError
        ├── Cancelled            the call was cancelled
        ├── Aborted              the call conflicted with another one
        ├── DataLoss             an index is damaged: a file is missing, cut short or altered
        ├── Internal             a fault of the server
        └── Unknown              a fault between client and server, such as a proxy's

Unavailable and ResourceExhausted are also Retryable: the same request may succeed later. The `code` of a
class is the name of its canonical status code, as in gRPC.
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
    "Retryable",
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
    """The expected and the actual value, in one line."""


class LemmseError(Exception):
    """Base class of all exceptions that lemmse raises deliberately.

    Parameters
    ----------
    message : str
        What happened, in one line.
    violations : tuple of Violation
        The invalid arguments that caused the error, if any.

    Examples
    --------
    >>> error = LemmseError("internal error")
    >>> error.request_id = "5f0c9a"
    >>> print(error)
    internal error (request 5f0c9a)
    """

    code: ClassVar[str]

    request_id: str = ""
    """Identifies the call in the server's log, and is in the text of the error; empty for local errors."""

    def __init__(self, message: str, violations: tuple[Violation, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.violations = violations

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id})" if self.request_id else self.message


class RequestError(LemmseError):
    """The request cannot be answered as it is."""


class ServiceError(LemmseError):
    """The service failed; the request may be valid."""


class Retryable(LemmseError):
    """The same request may succeed at a later time.

    Parameters
    ----------
    message, violations
        As in `LemmseError`.
    retry_after : float, optional
        Time after which to try again, in seconds, >= 0; by default the service does not suggest one.
    """

    def __init__(
        self, message: str, violations: tuple[Violation, ...] = (), *, retry_after: float | None = None
    ) -> None:
        super().__init__(message, violations)
        self.retry_after = retry_after


class InvalidArgument(RequestError, ValueError):
    """An argument is invalid."""

    code = "INVALID_ARGUMENT"

    @classmethod
    def of(cls, argument: str, expected: str) -> Self:
        """Return the error for one invalid argument.

        Parameters
        ----------
        argument : str
            Name of the argument, as the caller knows it.
        expected : str
            The expected and the actual value, in one line.

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
        """Name of the invalid argument; empty if the error names none."""
        return self.violations[0].field if self.violations else ""

    @property
    def expected(self) -> str:
        """The expected and the actual value; the whole message if the error names no argument."""
        return self.violations[0].description if self.violations else self.message


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
    """An index, file or address does not exist."""

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


class Unavailable(Retryable, ServiceError):
    """The server, or the workers that hold the index, do not answer; a later attempt may succeed."""

    code = "UNAVAILABLE"


class ResourceExhausted(Retryable, ServiceError):
    """Too many calls are waiting, or an answer is too large."""

    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(ServiceError, TimeoutError):
    """The timeout passed before the answer arrived."""

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
    """A fault between client and server, such as a proxy's."""

    code = "UNKNOWN"


BY_CODE: dict[str, type[LemmseError]] = {
    cls.code: cls for group in (RequestError, ServiceError) for cls in group.__subclasses__()
}
"""The class of each canonical status code, by the code's name."""
