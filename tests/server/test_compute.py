"""Computations in turns: on threads, in order, until they are cancelled."""

import asyncio
import gc
import time
import weakref
from threading import Event

import faiss
import numpy as np
import pytest
import torch

from lemmse.contract.errors import Cancelled, DeadlineExceeded
from lemmse.server.compute import Compute


@pytest.fixture
def compute():
    compute = Compute(threads=1, max_seconds=60)
    yield compute
    compute.close()


def ask(compute, work, client="client", cost=1e9):
    return compute.run(work, client=client, cost=cost)


def busy(seconds):
    """Work that takes so long, and polls as it should."""

    def work(cancelled):
        spent, last = 0.0, time.perf_counter()
        while spent < seconds:
            if cancelled():
                raise Cancelled("stopped")
            now = time.perf_counter()
            spent += min(now - last, 0.005)  # the rest was spent waiting for a turn
            last = now
        return seconds

    return work


def test_the_thread_counts_hold_where_the_work_is_done(compute):
    counts = asyncio.run(ask(compute, lambda _: (torch.get_num_threads(), faiss.omp_get_max_threads())))
    assert counts == (1, 1)


def test_an_error_is_the_callers(compute):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(ask(compute, lambda _: 1 / 0))
    assert asyncio.run(ask(compute, lambda _: "goes on")) == "goes on"


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


def test_a_short_job_does_not_wait_for_a_long_one(compute):
    """The long one has begun, and its client is the same or another one."""

    async def both(client):
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def long(cancelled):
            loop.call_soon_threadsafe(started.set)
            return busy(60)(cancelled)

        running = asyncio.create_task(ask(compute, long, cost=1e14))
        await started.wait()
        start = time.perf_counter()
        await ask(compute, busy(0.1), client, cost=1e8)
        seconds = time.perf_counter() - start
        running.cancel()
        await asyncio.wait([running])
        return seconds

    assert asyncio.run(both("client")) < 1
    assert asyncio.run(both("another")) < 1


def test_a_job_that_waits_for_its_turn_ends_when_it_is_abandoned(compute):
    paused, ended = Event(), Event()

    def work(cancelled):
        try:
            last = time.perf_counter()
            while not cancelled():
                if time.perf_counter() - last > 0.2:
                    paused.set()
                last = time.perf_counter()
            raise Cancelled("stopped")
        finally:
            ended.set()

    async def leave():
        waits = asyncio.create_task(ask(compute, work, cost=1e14))
        await asyncio.sleep(0.05)
        blocks = asyncio.create_task(ask(compute, busy(20), cost=1e8))
        while not paused.is_set():
            await asyncio.sleep(0.01)
        waits.cancel()
        assert await asyncio.to_thread(ended.wait, 5)
        blocks.cancel()
        await asyncio.wait([waits, blocks])

    asyncio.run(leave())


def test_a_job_ends_when_it_has_had_its_time():
    compute = Compute(threads=1, max_seconds=0.1)
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.1 seconds"):
        asyncio.run(ask(compute, busy(5)))
    compute.close()


@pytest.mark.parametrize("ending", ["cancelled", "failed", "answered"])
def test_nothing_is_left_of_a_job(compute, ending):
    """No reference cycle keeps the arrays of a job until the garbage collector runs."""
    kept = []

    def work_on(array, started):
        def work(cancelled):
            started()
            while ending == "cancelled" and not cancelled():
                pass
            if ending == "answered":
                return array.sum()
            raise Cancelled(f"stopped with {array.size}")

        kept.append(weakref.ref(array))
        return work

    async def request():
        loop, started = asyncio.get_running_loop(), asyncio.Event()
        work = work_on(np.zeros(1000), lambda: loop.call_soon_threadsafe(started.set))
        task = asyncio.create_task(ask(compute, work))
        await started.wait()
        if ending == "cancelled":
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or ending == "answered" or isinstance(task.exception(), Cancelled)

    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            asyncio.run(request())
        asyncio.run(ask(compute, lambda _: None))  # the thread has let go of the last
        assert [ref() is None for ref in kept] == [True] * 5
    finally:
        gc.enable()
