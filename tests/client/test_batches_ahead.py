"""Batches in this process: the next image is read and the last result used while an image is computed."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lemmse.client import connect
from lemmse.client.embedded import EmbeddedClient
from lemmse.client.errors import DeadlineExceeded, FailedPrecondition
from tests.support.processes import run_process

SMALL = np.zeros((4, 4), np.float32)
ENDLESS = np.zeros((900, 900), np.float32)


@pytest.fixture
def answered(monkeypatch):
    """Released for each image that is computed."""
    answered, answer = threading.Semaphore(0), EmbeddedClient.answer

    def noted(*args):
        try:
            return answer(*args)
        finally:
            answered.release()

    monkeypatch.setattr(EmbeddedClient, "answer", noted)
    return answered


def test_the_next_image_is_computed_while_a_result_is_used(connect_any, tiny_index, answered):
    with connect_any(tiny_index) as client:
        outcomes = client.reconstruct_many([SMALL + n for n in range(4)], sigma=0.1)
        for n in range(4):
            expected = SMALL + n
            assert next(outcomes).image.shape == expected.shape
            assert answered.acquire(timeout=30)
            if n < 3:  # without being asked for it
                assert answered.acquire(timeout=30)
                answered.release()
        assert list(outcomes) == []
        assert not answered.acquire(blocking=False)


def test_an_image_is_read_while_another_one_is_computed(connect_any, larger_index, answered):
    read = threading.Semaphore(0)

    def images():
        for image in (ENDLESS, SMALL, SMALL, SMALL):
            read.release()
            yield image

    with connect_any(larger_index) as client, ThreadPoolExecutor(1) as pool:
        outcomes = client.reconstruct_many(images(), sigma=0.1, mode="exact", timeout=3)
        waiting = pool.submit(next, outcomes)
        for _ in range(2):
            assert read.acquire(timeout=30)
        assert not answered.acquire(blocking=False)
        with pytest.raises(DeadlineExceeded):
            waiting.result()


def test_what_is_computed_ahead_stops_when_the_batch_is_closed(connect_any, larger_index, answered):
    """It would take minutes."""
    with connect_any(larger_index) as client:
        outcomes = client.reconstruct_many([SMALL, ENDLESS, ENDLESS], sigma=0.1, mode="exact")
        assert next(outcomes).image.shape == SMALL.shape
        assert answered.acquire(timeout=30)
        outcomes.close()
        assert client.reconstruct(SMALL, sigma=0.1).image.shape == SMALL.shape
        answered.acquire(timeout=30)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batch")]


def test_a_batch_of_a_client_that_is_closed(tiny_index):
    with connect(tiny_index) as client:
        outcomes = client.reconstruct_many([SMALL] * 4, sigma=0.1)
        next(outcomes)
    with pytest.raises(FailedPrecondition, match="closed"):
        next(outcomes)


@pytest.mark.slow
def test_a_program_that_ends_waits_for_its_threads_and_not_for_what_is_computed_ahead(larger_index):
    program = f"""
import threading
import numpy as np
from lemmse.client import connect

def finish():
    threading.main_thread().join()
    print([outcome.image.shape for outcome in client.reconstruct_many([images[0]] * 3, sigma=0.1)])

client = connect({str(larger_index)!r})
images = [np.zeros((side, side), np.float32) for side in (4, 900, 900)]
outcomes = client.reconstruct_many(images, sigma=0.1, mode="exact")
print(next(outcomes).image.shape)
threading.Thread(target=finish).start()
"""
    ended = run_process([sys.executable, "-c", program])
    expected = (0, "(4, 4)\n[(4, 4), (4, 4), (4, 4)]\n", "")
    assert (ended.returncode, ended.stdout, ended.stderr) == expected
