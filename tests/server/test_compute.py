"""The compute pool: its bound, and cancelled calls."""

import asyncio
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


async def ask(compute, work):
    with compute.admit() as place:
        return await place.run(work)


def test_the_thread_counts_hold_where_the_work_is_done(compute):
    counts = asyncio.run(ask(compute, lambda _: (torch.get_num_threads(), faiss.omp_get_max_threads())))
    assert counts == (1, 1)


def test_admits_one_and_the_queue(compute):
    refused = pytest.raises(ResourceExhausted, match="already has 2 calls")
    with compute.admit(), compute.admit(), refused, compute.admit():
        pass
    assert asyncio.run(ask(compute, lambda _: "free again")) == "free again"


def test_an_error_gives_the_place_back(compute):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(ask(compute, lambda _: 1 / 0))


def test_abandoned_work_stops_and_waiting_work_never_starts(compute):
    started, stopped, ran = Event(), Event(), Event()

    def until_cancelled(cancelled):
        started.set()
        while not cancelled():
            pass
        stopped.set()
        raise Cancelled("stopped")

    async def leave():
        running = asyncio.create_task(ask(compute, until_cancelled))
        assert await asyncio.to_thread(started.wait, 10)
        waiting = asyncio.create_task(ask(compute, lambda _: ran.set()))
        await asyncio.sleep(0)
        for task in (waiting, running):
            task.cancel()
        await asyncio.wait([waiting, running])
        await ask(compute, lambda _: None)

    asyncio.run(leave())
    assert stopped.is_set()
    assert not ran.is_set()
