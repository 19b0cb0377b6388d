"""Errors survive the way through a `google.rpc.Status`."""

import pickle

import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from lemmse.contract.errors import (
    BY_CODE,
    InvalidArgument,
    ResourceExhausted,
    Retryable,
    Unavailable,
    Unknown,
    Violation,
)
from lemmse.contract.status import from_status, to_status


@pytest.mark.parametrize("kind", BY_CODE.values())
def test_class_message_and_violations(kind):
    error = kind("nothing works", (Violation("y", "expected much, got none"), Violation("mask", "too")))
    seen = from_status(Status.FromString(to_status(error).SerializeToString()))
    assert type(seen) is kind
    assert (seen.message, seen.violations) == (error.message, error.violations)


@pytest.mark.parametrize("kind", [ResourceExhausted, Unavailable])
@given(seconds=st.none() | st.floats(0, 1e9))
def test_the_time_to_wait(kind, seconds):
    seen = from_status(to_status(kind("busy", retry_after=seconds)))
    assert seen.retry_after == (None if seconds is None else pytest.approx(seconds, abs=1e-6))


def test_only_what_may_succeed_later_has_a_time_to_wait():
    assert {kind.code for kind in Retryable.__subclasses__()} == {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    status = to_status(Unknown("odd"))
    status.details.add().Pack(RetryInfo(retry_delay={"seconds": 3}))
    assert not hasattr(from_status(status), "retry_after")


def test_a_time_to_wait_is_not_negative():
    status = to_status(Unavailable("gone"))
    status.details.add().Pack(RetryInfo(retry_delay={"seconds": -3}))
    assert from_status(status).retry_after == 0


def test_a_code_that_is_none():
    assert type(from_status(Status(code=99))) is Unknown


def test_the_request_is_in_the_text_but_not_in_the_message():
    error = InvalidArgument.of("sigma", "expected a number > 0, got 0")
    error.request_id = "5f0c"
    assert str(error) == "sigma: expected a number > 0, got 0 (request 5f0c)"
    assert to_status(error).message == error.message == "sigma: expected a number > 0, got 0"
    assert error.expected == "expected a number > 0, got 0"


def test_errors_can_be_pickled():
    error = Unavailable("gone", (Violation("y", "lost"),), retry_after=2.0)
    error.request_id = "5f0c"
    seen = pickle.loads(pickle.dumps(error))
    assert (type(seen), str(seen), seen.violations) == (Unavailable, "gone (request 5f0c)", error.violations)
    assert seen.retry_after == 2
