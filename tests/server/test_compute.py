"""The compute pool: its bound, and cancelled calls."""

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event

import faiss
import pytest
import torch

from lemmse.contract.errors import Cancelled, ResourceExhausted
from lemmse.server.compute import Compute


@pytest.fixture
def compute():
    compute = Compute(threads=1, queue=1)
    yield compute
    compute.close()


def staying(_abandon):
    """Stand for a caller that waits."""
    return True


def test_the_thread_counts_hold_where_the_work_is_done(compute):
    with compute.admit(staying) as place:
        counts = place.run(lambda _: (torch.get_num_threads(), faiss.omp_get_max_threads()))
    assert counts == (1, 1)


def test_admits_one_and_the_queue(compute):
    refused = pytest.raises(ResourceExhausted, match="already has 2 calls")
    with compute.admit(staying), compute.admit(staying), refused, compute.admit(staying):
        pass
    with compute.admit(staying) as place:
        assert place.run(lambda _: "free again") == "free again"


def test_an_error_gives_the_place_back(compute):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), compute.admit(staying) as place:
            place.run(lambda _: 1 / 0)


def test_abandoned_work_stops_and_waiting_work_never_starts(compute):
    abandon = SimpleQueue()
    started, ran = Event(), Event()

    def until_cancelled(cancelled):
        started.set()
        while not cancelled():
            pass
        raise Cancelled("stopped")

    def call(work):
        with compute.admit(lambda callback: abandon.put(callback) is None) as place:
            return place.run(work)

    with ThreadPoolExecutor(2) as callers:
        running = callers.submit(call, until_cancelled)
        abandon_running = abandon.get(timeout=10)
        assert started.wait(10)
        waiting = callers.submit(call, lambda _: ran.set())
        abandon.get(timeout=10)()
        with pytest.raises(Cancelled):
            waiting.result(10)
        abandon_running()
        with pytest.raises(Cancelled):
            running.result(10)
    with compute.admit(staying) as place:
        place.run(lambda _: None)
    assert not ran.is_set()


def test_a_caller_that_is_gone_already(compute):
    with compute.admit(lambda _: False) as place, pytest.raises(Cancelled):
        place.run(_fail_unless_cancelled)


def _fail_unless_cancelled(cancelled):
    if cancelled():
        raise Cancelled("stopped")
    raise ValueError("ran for nobody")
