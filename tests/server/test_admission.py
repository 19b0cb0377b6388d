"""Memory and places: who holds them, who waits and who is refused."""

import asyncio

import pytest

from lemmse.contract.errors import DeadlineExceeded, ResourceExhausted
from lemmse.server.admission import Queue
from lemmse.server.memory import Memory, StreamMemory


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 10))


async def settled():
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_has_arrived_is_held_or_refused():
    async def scenario():
        memory = Memory(100, patience=60)
        with memory.held(60), pytest.raises(ResourceExhausted) as refused, memory.held(41):
            pass
        assert refused.value.retry_after > 0
        assert memory.used == 0
        with memory.held(100):
            assert memory.used == 100

    run(scenario())


def test_items_wait_for_their_memory_in_order():
    async def scenario():
        memory, order = Memory(100, patience=60), []

        async def item(name, nbytes):
            upload = await StreamMemory(memory, name).take(nbytes, whole=True)
            order.append(name)
            return upload

        first = await StreamMemory(memory, "first").take(90, whole=True)
        tasks = [asyncio.create_task(item(name, nbytes)) for name, nbytes in [("a", 50), ("b", 10)]]
        await settled()
        assert order == []
        first.give()
        uploads = await asyncio.gather(*tasks)
        assert order == ["a", "b"]
        for upload in uploads:
            upload.give()
        assert memory.used == 0

    run(scenario())


def test_uploads_leave_half_to_what_is_whole_and_no_client_has_them_all():
    async def scenario():
        memory = Memory(100, patience=60)
        first = await StreamMemory(memory, "greedy").take(20, whole=False)
        greedy = asyncio.create_task(StreamMemory(memory, "greedy").take(20, whole=False))
        await settled()
        assert not greedy.done()
        other = await StreamMemory(memory, "other").take(30, whole=False)
        third = asyncio.create_task(StreamMemory(memory, "third").take(10, whole=False))
        await settled()
        assert not third.done()
        whole = await StreamMemory(memory, "whole").take(50, whole=True)
        whole.give()
        first.arrived()
        await greedy
        other.arrived()
        await asyncio.gather(greedy, third)
        assert memory.used == 80
        for upload in (first, other, greedy.result(), third.result()):
            upload.give()
        assert memory.used == 0

    run(scenario())


def test_an_item_ahead_waits_behind_all_others_and_keeps_nobody_waiting():
    async def scenario():
        memory = Memory(100, patience=-1)
        stream, other = StreamMemory(memory, "client"), StreamMemory(memory, "client")
        first = await stream.take(20, whole=True)
        second = await stream.take(30, whole=True)  # half of the memory remains
        ahead = asyncio.create_task(stream.take(20, whole=True))
        await settled()
        assert not ahead.done()
        half_sent = await other.take(50, whole=False)  # though it came later
        half_sent.require_patience()  # since none waits but who is ahead
        first.give()
        await settled()
        assert not ahead.done()
        second.give()
        last = await ahead  # it is not ahead any more
        assert memory.used == 70
        for upload in (half_sent, last):
            upload.give()
        assert memory.used == 0

    run(scenario())


def test_a_stream_that_ends_returns_what_its_items_hold():
    async def scenario():
        memory = Memory(100, patience=60)
        with memory.of_stream("client") as stream:
            (await stream.take(10, whole=True)).give()
            await stream.take(20, whole=True)
            await stream.take(30, whole=False)
            assert memory.used == 50
        assert memory.used == 0
        other = StreamMemory(memory, "client")
        assert (await other.take(50, whole=False)).nbytes == 50  # no part of it counts as arriving

    run(scenario())


def test_a_slow_upload_makes_room_only_for_those_who_wait():
    async def scenario():
        memory = Memory(100, patience=-1)
        slow = await StreamMemory(memory, "slow").take(50, whole=False)
        slow.require_patience()
        waits = asyncio.create_task(StreamMemory(memory, "waits").take(50, whole=False))
        await settled()
        with pytest.raises(DeadlineExceeded):
            slow.require_patience()
        slow.give()
        (await waits).give()
        assert memory.used == 0

    run(scenario())


@pytest.mark.parametrize("granted", [False, True])
def test_who_leaves_while_waiting_takes_nothing_along(granted):
    async def scenario():
        memory, queue = Memory(100, patience=60), Queue(1, 1e9, lambda: 1e9)
        first = await StreamMemory(memory, "first").take(90, whole=True)
        memory_waits = asyncio.create_task(StreamMemory(memory, "waits").take(20, whole=True))
        async with queue.place(5.0, "client", wait=False):
            place_waits = asyncio.create_task(queue.place(5.0, "client", wait=True).__aenter__())
            await settled()
            if not granted:
                for task in (memory_waits, place_waits):
                    task.cancel()
                await settled()
        first.give()
        for task in (memory_waits, place_waits):
            task.cancel()
        await asyncio.wait([memory_waits, place_waits])
        assert memory.used == 0
        assert len(queue) == 0
        async with queue.place(5.0, "client", wait=False):
            assert len(queue) == 1

    run(scenario())


def test_places_and_when_to_try_again():
    async def scenario():
        queue = Queue(2, 1e12, lambda: 1e9)
        async with queue.place(4e9, "client", wait=False), queue.place(8e9, "other", wait=False):
            with pytest.raises(ResourceExhausted, match="already has 2 requests") as refused:
                await queue.place(1.0, "client", wait=False).__aenter__()
            assert refused.value.retry_after == pytest.approx(4)
            waits = asyncio.create_task(queue.place(1.0, "client", wait=True).__aenter__())
            await settled()
            assert not waits.done()
        await waits
        assert queue.work == 1

    run(scenario())


def test_a_short_request_is_admitted_beside_a_long_one_and_a_second_long_one_is_not():
    async def scenario():
        queue = Queue(100, 1e9, lambda: 1e9)
        async with queue.place(5e9, "client", wait=False):
            async with queue.place(1e6, "client", wait=False):
                assert len(queue) == 2
            with pytest.raises(ResourceExhausted) as refused:
                await queue.place(3e9, "client", wait=False).__aenter__()
            assert refused.value.retry_after >= 2

    run(scenario())


def test_one_client_has_at_most_half_of_the_places():
    async def scenario():
        queue = Queue(4, 1e12, lambda: 1e9)
        async with queue.place(1.0, "greedy", wait=False), queue.place(1.0, "greedy", wait=False):
            with pytest.raises(ResourceExhausted):
                await queue.place(1.0, "greedy", wait=False).__aenter__()
            async with queue.place(1.0, "other", wait=False):
                assert len(queue) == 3

    run(scenario())
