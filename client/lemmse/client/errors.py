"""What can go wrong, the same whether the index is remote or in this process.

    LemmseError
    ├── RequestError             the request cannot be answered as it is
    │   ├── InvalidArgument      an argument cannot be meant; also a ValueError
    │   ├── OutOfRange           an argument is beyond what there is
    │   ├── NotFound             what was named is not there
    │   ├── AlreadyExists        the place to write to is taken
    │   ├── FailedPrecondition   something must be done first, for example an extra installed
    │   ├── Unauthenticated      the server does not know who asks
    │   ├── PermissionDenied     the server does not allow it
    │   └── Unimplemented        the server does not offer it
    └── ServiceError             the request may be fine, the service was not
        ├── Unavailable          nobody answers at the address, or for the index
        ├── ResourceExhausted    too many calls wait, or an answer is too large
        ├── DeadlineExceeded     the timeout passed first; also a TimeoutError
        ├── Cancelled            the call was given up
        ├── Aborted              the call met another one
        ├── DataLoss             the index is not what was written
        ├── Internal             a fault of the server
        └── Unknown              a fault of something in between

There is one class for each canonical status code; its `code` is the code's name.
"""

from dataclasses import dataclass
from typing import ClassVar

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
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "RequestError",
    "ResourceExhausted",
    "ServiceError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "Violation",
]


@dataclass(frozen=True, slots=True)
class Violation:
    """An argument that is not as it should be."""

    field: str
    """The argument, or the path of the field on the wire."""
    description: str
    """What was expected and what came."""


class LemmseError(Exception):
    """Base of all errors of the client.

    Parameters
    ----------
    message : str
        What happened, in one line.
    violations : tuple of Violation
        The arguments that caused it, if they did.
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
    """An argument cannot be meant."""

    code = "INVALID_ARGUMENT"

    @classmethod
    def of(cls, argument: str, expected: str) -> "InvalidArgument":
        """Return the error of one argument.

        Examples
        --------
        >>> error = InvalidArgument.of("sigma", "expected a number, got 'a'")
        >>> print(error, error.violations[0].field)
        sigma: expected a number, got 'a' sigma
        """
        return cls(f"{argument}: {expected}", (Violation(argument, expected),))


class OutOfRange(RequestError):
    """An argument is beyond what there is."""

    code = "OUT_OF_RANGE"


class NotFound(RequestError):
    """What was named is not there."""

    code = "NOT_FOUND"


class AlreadyExists(RequestError):
    """The place to write to is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(RequestError):
    """Something must be done first."""

    code = "FAILED_PRECONDITION"


class Unauthenticated(RequestError):
    """The server does not know who asks."""

    code = "UNAUTHENTICATED"


class PermissionDenied(RequestError):
    """The server does not allow it."""

    code = "PERMISSION_DENIED"


class Unimplemented(RequestError):
    """The server does not offer it."""

    code = "UNIMPLEMENTED"


class Unavailable(ServiceError):
    """Nobody answers at the address, or the workers that hold the index are gone."""

    code = "UNAVAILABLE"


class ResourceExhausted(ServiceError):
    """Too many calls wait, or an answer is too large."""

    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(ServiceError, TimeoutError):
    """The timeout passed before the answer came."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(ServiceError):
    """The call was given up."""

    code = "CANCELLED"


class Aborted(ServiceError):
    """The call met another one."""

    code = "ABORTED"


class DataLoss(ServiceError):
    """The index is not what was written."""

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
