"""Conversion of errors to and from `google.rpc.Status` messages."""

from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status

from lemmse.contract.errors import BY_CODE, LemmseError, Unknown, Violation
from lemmse.contract.lines import one_line

__all__ = ["from_status", "to_status"]


def to_status(error: LemmseError) -> Status:
    """Return the status of an error, with its violations as BadRequest details.

    Examples
    --------
    >>> from lemmse.contract.errors import InvalidArgument
    >>> status = to_status(InvalidArgument.of("sigma", "expected a number > 0, got -1"))
    >>> from_status(status).violations
    (Violation(field='sigma', description='expected a number > 0, got -1'),)
    """
    status = Status(code=Code.Value(error.code), message=str(error))
    if error.violations:
        detail = Any()
        detail.Pack(
            BadRequest(
                field_violations=[
                    BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.violations
                ]
            )
        )
        status.details.append(detail)
    return status


def from_status(status: Status) -> LemmseError:
    """Return the error that a status describes; `Unknown` if its code is not a canonical one.

    Examples
    --------
    >>> from_status(Status(code=5, message="index: expected one of a, b, got 'c'"))
    NotFound("index: expected one of a, b, got 'c'")
    """
    violations = []
    for detail in status.details:
        request = BadRequest()
        if detail.Unpack(request):
            violations += [Violation(v.field, v.description) for v in request.field_violations]
    name = Code.Name(status.code) if status.code in Code.values() else ""
    return BY_CODE.get(name, Unknown)(one_line(status.message, "no details"), tuple(violations))
