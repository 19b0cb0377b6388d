"""Child processes of tests end, and start alike however the suite was started."""

import sys
import time
from pathlib import Path
from subprocess import TimeoutExpired

import pytest

from tests.support.processes import run_process, start_process

IGNORED = """
import signal
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
print([number.name for number in numbers if signal.getsignal(number) is signal.SIG_IGN])
"""


def test_a_child_is_killed_with_its_children_when_its_time_is_over():
    began = time.monotonic()
    with pytest.raises(TimeoutExpired):
        run_process(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.2)
    assert time.monotonic() - began < 30


def test_a_child_is_killed_when_its_test_fails():
    def fail():
        with start_process(["sleep", "60"]) as process:
            assert not process

    began = time.monotonic()
    with pytest.raises(AssertionError):
        fail()
    assert time.monotonic() - began < 30


def test_a_child_ignores_no_signal():
    assert run_process([sys.executable, "-c", IGNORED]).stdout == "[]\n"


@pytest.mark.slow
def test_a_child_ignores_no_signal_where_the_suite_does():
    here = f"{Path(__file__)}::{test_a_child_ignores_no_signal.__name__}"
    suite = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", here]
    done = run_process(["sh", "-c", 'trap "" INT TERM HUP; exec "$@"', "sh", *suite])
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
