"""Conversion of errors to and from `google.rpc.Status` messages."""

from datetime import timedelta

from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from lemmse.contract.errors import BY_CODE, LemmseError, Retryable, Unknown, Violation
from lemmse.contract.lines import one_line

__all__ = ["from_status", "to_status"]


def to_status(error: LemmseError) -> Status:
    """Return the status of an error, with its violations and its `retry_after` as details.

    Examples
    --------
    >>> from lemmse.contract.errors import InvalidArgument, ResourceExhausted
    >>> status = to_status(InvalidArgument.of("sigma", "expected a number > 0, got -1"))
    >>> from_status(status).violations
    (Violation(field='sigma', description='expected a number > 0, got -1'),)
    >>> from_status(to_status(ResourceExhausted("too many calls", retry_after=1.5))).retry_after
    1.5
    """
    status = Status(code=Code.Value(error.code), message=error.message)
    if error.violations:
        violations = [
            BadRequest.FieldViolation(field=v.field, description=v.description) for v in error.violations
        ]
        status.details.add().Pack(BadRequest(field_violations=violations))
    if isinstance(error, Retryable) and error.retry_after is not None:
        status.details.add().Pack(RetryInfo(retry_delay=timedelta(seconds=error.retry_after)))
    return status


def from_status(status: Status) -> LemmseError:
    """Return the error that a status describes; `Unknown` if its code is not a canonical one.

    Examples
    --------
    >>> from_status(Status(code=5, message="index: expected one of a, b, got 'c'"))
    NotFound("index: expected one of a, b, got 'c'")
    """
    name = Code.Name(status.code) if status.code in Code.values() else ""
    error = BY_CODE.get(name, Unknown)(one_line(status.message, "no details"))
    for detail in status.details:
        request, retry = BadRequest(), RetryInfo()
        if detail.Unpack(request):
            error.violations += tuple(Violation(v.field, v.description) for v in request.field_violations)
        elif detail.Unpack(retry) and isinstance(error, Retryable):
            error.retry_after = max(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9, 0.0)
    return error
