"""Work that waits and is alike is done together; each caller is charged for its part, and may leave."""

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Event

import numpy as np
import pytest

from lemmse.client import connect
from lemmse.contract.errors import Cancelled, DeadlineExceeded, InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.server.compute import Compute, Joint
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server


class Joined:
    """A computation of one thread, which notes what is done together."""

    def __init__(self, max_seconds=60.0):
        self.compute = Compute(threads=1, max_seconds=max_seconds)
        self.passes, self.used = [], []

    async def ask(self, name, *, client="client", key="alike", queries=64, cost=1e8, work=None):
        """The result of work of this name: the name, unless `work` tells otherwise."""
        joint = Joint(key=key, argument=name, queries=queries, work=work or self._together)
        return await self.compute.run(
            lambda cancelled: self._together([name], cancelled)[0],
            client=client,
            cost=cost,
            joint=joint,
            used=lambda seconds: self.used.append((queries, seconds)),
        )

    def _together(self, names, cancelled):
        self.passes.append(names)
        return names

    @asynccontextmanager
    async def waiting(self, *jobs):
        """The tasks of jobs, which wait until the block ends."""
        held, release = asyncio.Event(), Event()
        loop = asyncio.get_running_loop()

        def hold(cancelled):
            loop.call_soon_threadsafe(held.set)
            release.wait(10)

        holding = asyncio.create_task(self.compute.run(hold, client="holds", cost=1e8))
        await held.wait()
        tasks = [asyncio.create_task(job) for job in jobs]
        await asyncio.sleep(0)  # all have asked
        try:
            yield tasks
        finally:
            release.set()
            await holding

    def results(self, *jobs):
        async def wait():
            async with self.waiting(*jobs) as tasks:
                pass
            return await asyncio.gather(*tasks, return_exceptions=True)

        return asyncio.run(wait())


@pytest.fixture
def joined():
    joined = Joined()
    yield joined
    joined.compute.close()


def test_what_waits_and_is_alike_is_done_together(joined):
    jobs = [joined.ask("a"), joined.ask("other", key="another"), joined.ask("b", client="b"), joined.ask("c")]
    assert joined.results(*jobs) == ["a", "other", "b", "c"]
    assert sorted(map(sorted, joined.passes)) == [["a", "b", "c"], ["other"]]


def test_nobody_waits_for_others_to_come(joined):
    assert asyncio.run(joined.ask("alone")) == "alone"
    assert joined.passes == [["alone"]]


def test_no_more_queries_than_a_block_of_the_sum_and_nothing_long(joined):
    sizes = {"a": 200, "b": 200, "c": 200, "d": 100}
    joined.results(
        *[joined.ask(name, queries=queries) for name, queries in sizes.items()],
        joined.ask("long", cost=1e11, queries=1),
    )
    assert sorted(joined.passes) == [["a", "b", "d"], ["c"], ["long"]]


def test_places_are_shared_out_among_clients(joined):
    many = [joined.ask(f"many {i}", client="many", queries=128) for i in range(6)]
    joined.results(*many, *[joined.ask(name, client=name, queries=128) for name in ("x", "y")])
    assert sorted(joined.passes[0]) == ["many 0", "many 1", "x", "y"]


def busy(seconds):
    def work(names, cancelled):
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            if cancelled():
                raise Cancelled("stopped")
        return names

    return work


def test_each_client_is_charged_for_its_part(joined):
    work = busy(0.2)
    sizes = {"a": 64, "b": 128, "c": 256}
    joined.results(*[joined.ask(name, client=name, queries=n, work=work) for name, n in sizes.items()])
    parts = np.array([seconds for _, seconds in sorted(joined.used)])
    assert parts.sum() >= 0.2
    np.testing.assert_allclose(parts / parts.sum(), np.array([64, 128, 256]) / 448)


def test_an_error_of_one_is_its_own_and_one_of_all_is_everybodys(joined):
    def one_is_wrong(names, cancelled):
        return [InvalidArgument("wrong") if name == "b" else name for name in names]

    results = joined.results(*[joined.ask(name, work=one_is_wrong) for name in "abc"])
    assert (results[0], str(results[1]), results[2]) == ("a", "wrong", "c")
    failed = joined.results(*[joined.ask(name, work=lambda names, cancelled: 1 / 0) for name in "abc"])
    assert [type(error) for error in failed] == [ZeroDivisionError] * 3
    assert asyncio.run(joined.ask("goes on")) == "goes on"


def until_told(begun, told, stopped):
    def work(names, cancelled):
        begun.set()
        while not told.is_set():
            if cancelled():
                stopped.set()
                raise Cancelled("stopped")
            told.wait(0.001)
        return names

    return work


@pytest.mark.parametrize("ending", ["answered", "failed", "cancelled", "late"])
def test_nothing_is_left_of_jobs(ending):
    """No reference cycle keeps their arrays until the garbage collector runs."""
    joined = Joined(max_seconds=0.05 if ending == "late" else 60)
    kept, begun = [], Event()

    def work(arrays, cancelled):
        kept.extend(weakref.ref(array) for array in arrays)
        begun.set()
        if ending == "answered":
            return [array.sum() for array in arrays]
        while ending != "failed" and not cancelled():
            pass
        raise Cancelled(f"stopped with {len(arrays)}")

    async def request(i):
        jobs = [joined.ask(np.full(1000, i), work=work) for i in range(2)]
        async with joined.waiting(*jobs) as tasks:
            del jobs
        if ending == "cancelled":
            assert await asyncio.to_thread(begun.wait, 10)
            for task in tasks:
                task.cancel()
        await asyncio.wait(tasks)
        assert {type(task.exception()) for task in tasks if not task.cancelled()} <= outcomes[ending]

    outcomes = {
        "answered": {type(None)},
        "failed": {Cancelled},
        "cancelled": set(),
        "late": {DeadlineExceeded},
    }
    gc.collect()
    gc.disable()
    try:
        for i in range(5):
            begun.clear()
            asyncio.run(request(i))
        asyncio.run(joined.compute.run(lambda _: None, client="client", cost=1e8))
        assert [ref() is None for ref in kept] == [True] * 10
    finally:
        gc.enable()
        joined.compute.close()


@pytest.mark.parametrize("leaves", [0, 1, 2])
def test_one_that_leaves_does_not_disturb_the_others(joined, leaves):
    begun, told, stopped = Event(), Event(), Event()
    work = until_told(begun, told, stopped)

    async def leave():
        async with joined.waiting(*[joined.ask(name, work=work) for name in "abc"]) as tasks:
            pass
        assert await asyncio.to_thread(begun.wait, 10)
        tasks[leaves].cancel()
        await asyncio.wait([tasks[leaves]])
        told.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(leave())
    assert isinstance(results.pop(leaves), asyncio.CancelledError)
    assert results == [name for number, name in enumerate("abc") if number != leaves]
    assert not stopped.is_set()


def test_work_stops_when_all_have_left(joined):
    begun, told, stopped = Event(), Event(), Event()
    work = until_told(begun, told, stopped)

    async def leave():
        async with joined.waiting(*[joined.ask(name, work=work) for name in "abc"]) as tasks:
            pass
        assert await asyncio.to_thread(begun.wait, 10)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert await asyncio.to_thread(stopped.wait, 10)
        return await joined.ask("goes on")

    assert asyncio.run(leave()) == "goes on"


def test_who_leaves_before_is_not_computed(joined):
    async def leave():
        async with joined.waiting(*[joined.ask(name) for name in "abc"]) as tasks:
            tasks[1].cancel()
            await asyncio.wait([tasks[1]])
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(leave())
    assert joined.passes == [["a", "c"]]


def test_each_has_its_own_time():
    joined = Joined(max_seconds=0.1)
    work = busy(0.2)
    late, served = joined.results(joined.ask("late", queries=400, work=work), joined.ask("b", work=work))
    assert isinstance(late, DeadlineExceeded)
    assert served == "b"
    joined.compute.close()


def test_clients_of_a_server_get_the_answers_that_each_would_get_alone(larger_index, monkeypatch):
    passes, answer = [], Reconstructor.answer_together

    def noted(self, measurements, options, cancelled):
        passes.append(len(measurements))
        return answer(self, measurements, options, cancelled)

    monkeypatch.setattr(Reconstructor, "answer_together", noted)
    rng = np.random.default_rng(0)
    images = [rng.random((size, size), np.float32) for size in (3, 8, 11, 16)]
    server = Server(ServerConfig(indexes=(larger_index,), listen="127.0.0.1:0", threads=1))
    try:
        with connect(f"grpc://{server.address}") as remote, connect(larger_index) as alone:
            expected = [alone.reconstruct(y, sigma=0.2, mode="exact").image for y in images]
            begin, deadline = threading.Barrier(8), time.monotonic() + 60

            def ask(number):
                begin.wait()
                y = images[number % len(images)]
                return remote.reconstruct(y, sigma=0.2, mode="exact").image

            with ThreadPoolExecutor(8) as pool:
                while not passes:
                    assert time.monotonic() < deadline
                    for number, image in enumerate(pool.map(ask, range(8))):
                        np.testing.assert_allclose(image, expected[number % len(images)], atol=2e-5)
    finally:
        server.stop(0)
    assert min(passes) >= 2
