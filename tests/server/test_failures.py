"""The catalogue: what a client may read, and what stays in the log."""

import logging

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from lemmse.contract import errors as engine
from lemmse.contract.errors import MalformedMessage
from lemmse.server.calls import logged
from lemmse.server.failures import Failure


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (engine.InvalidArgument.of("sigma", "expected a number > 0, got -1"), "INVALID_ARGUMENT"),
        (MalformedMessage.of("y.shape", "expected lengths >= 1, got (0, 3)"), "INVALID_ARGUMENT"),
        (engine.NotFound("index: expected one of a, got 'b'"), "NOT_FOUND"),
        (engine.Cancelled("nobody waits"), "CANCELLED"),
        (engine.ResourceExhausted("too many"), "RESOURCE_EXHAUSTED"),
    ],
)
def test_written_for_the_client(error, code):
    failure = Failure(error)
    assert failure.code is grpc.StatusCode[code]
    assert failure.status.code == failure.code.value[0]
    assert failure.status.message == str(error)


@pytest.mark.parametrize(
    ("error", "code", "public"),
    [
        (engine.DataLoss("/srv/secret/keys is altered"), "DATA_LOSS", "the index is damaged on the server"),
        (
            engine.Unavailable("no worker at tcp://secret:8786"),
            "UNAVAILABLE",
            "the workers that hold the index do not answer",
        ),
        (engine.UnsupportedFormat("/srv/secret"), "INTERNAL", "internal error"),
        (RuntimeError("/srv/secret"), "INTERNAL", "internal error"),
    ],
)
def test_kept_from_the_client(error, code, public, caplog):
    with caplog.at_level(logging.ERROR):
        failure = Failure(error)
    assert failure.code is grpc.StatusCode[code]
    assert failure.status.message.startswith(f"{public} (reference ")
    assert "secret" not in failure.status.SerializeToString().decode(errors="replace")
    reference = failure.status.message.split()[-5]
    assert reference in caplog.text
    assert "secret" in caplog.text


@pytest.mark.parametrize("kind", [engine.InvalidArgument, MalformedMessage])
def test_names_the_field(kind):
    (detail,) = Failure(kind.of("k", "expected a whole number >= 1, got 0")).status.details
    request = BadRequest()
    assert detail.Unpack(request)
    (violation,) = request.field_violations
    assert (violation.field, violation.description) == ("k", "expected a whole number >= 1, got 0")


def test_a_line_about_a_call_has_its_facts_as_they_are_and_quotes_them_in_its_text(caplog):
    with caplog.at_level(logging.INFO), logged("LoadIndex") as facts:
        facts |= {"index": "photos", "folder": "a b\nc", "version": "", "shape": (2, 3)}
    (record,) = caplog.records
    assert record.message.startswith(
        "LoadIndex index=photos folder='a b\\nc' version='' shape=(2, 3) seconds="
    )
    assert record.facts["folder"] == "a b\nc"
