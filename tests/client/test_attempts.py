"""When a call is tried again, without a server or a clock that runs."""

from types import SimpleNamespace

import pytest

from lemmse.client import attempts as module
from lemmse.client.attempts import Attempts, Contact
from lemmse.contract.errors import (
    Cancelled,
    DataLoss,
    InvalidArgument,
    LemmseError,
    ResourceExhausted,
    Unavailable,
)


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(module, "random", SimpleNamespace(uniform=lambda low, high: low))
    return clock


def pauses(clock: Clock, attempts: Attempts, error: Exception, *, seconds: float = 0.0) -> list[float]:
    """The pauses before attempts that take so many seconds each and always fail with the error."""
    found = []
    while len(found) < 10_000:
        attempts.begin()
        clock.now += seconds
        try:
            found.append(attempts.pause(error))
        except LemmseError:
            break
        clock.now += found[-1]
    return found


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("y"),
        DataLoss("lost"),
        Cancelled("gone"),
        Unavailable("the server does not say that it comes back"),
        ResourceExhausted("an answer is larger than a message"),
    ],
)
def test_an_error_that_another_attempt_would_repeat(clock, error):
    assert pauses(clock, Attempts(Contact(1), None), error) == []


def test_the_pauses_grow_to_a_second(clock):
    found = pauses(clock, Attempts(Contact(1), None), Unavailable("refused", retry_after=0.0))
    assert found[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert set(found[5:]) == {1.0}
    assert sum(found) <= 5


def test_a_server_that_has_answered_may_be_away_for_longer(clock):
    contact = Contact(1)
    Attempts(contact, None).succeed()
    found = pauses(clock, Attempts(contact, None), Unavailable("refused", retry_after=0.0))
    assert 55 < sum(found) <= 60


def test_attempts_that_take_long_count(clock):
    contact = Contact(1)
    Attempts(contact, None).succeed()
    attempts = Attempts(contact, None)
    assert len(pauses(clock, attempts, Unavailable("reset", retry_after=0.0), seconds=300)) == 5


def test_an_answer_starts_again(clock):
    attempts = Attempts(Contact(1), None)
    first = pauses(clock, attempts, Unavailable("reset", retry_after=0.0))
    attempts.succeed()
    assert attempts.pause(Unavailable("reset", retry_after=0.0)) == first[0]


def test_the_server_says_when(clock):
    attempts = Attempts(Contact(1), None)
    found = pauses(clock, attempts, ResourceExhausted("busy", retry_after=7.0))
    assert set(found) == {7.0}
    assert 590 < sum(found) <= 600


def test_no_pause_passes_the_timeout(clock):
    attempts = Attempts(Contact(1), 10.0)
    assert attempts.begin() == 10
    assert len(pauses(clock, attempts, ResourceExhausted("busy", retry_after=4.0))) == 2
    assert attempts.begin() == 2


def test_other_servers_are_asked_at_once(clock):
    attempts = Attempts(Contact(3), None)
    busy = ResourceExhausted("busy", retry_after=3.0)
    assert [attempts.pause(busy) for _ in range(4)] == [0, 0, 3, 3]
