"""What only an asyncio client does; tests/client/test_every_client.py has the rest."""

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lemmse.client import Client, aio, connect
from lemmse.client.errors import InvalidArgument, NotFound

IMAGE = np.random.default_rng(2).random((5, 7))
METHODS = [
    "reconstruct",
    "reconstruct_many",
    "sample",
    "explain",
    "estimate_noise",
    "list_indexes",
    "get_index",
]


@pytest.fixture(params=["remote", "embedded"])
def target(request, server, tiny_index):
    return f"grpc://{server.address}" if request.param == "remote" else tiny_index


@pytest.mark.parametrize("name", METHODS)
def test_the_methods_are_those_of_the_synchronous_client(name):
    ours, theirs = getattr(aio.AsyncClient, name), getattr(Client, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)


def test_connect_has_the_arguments_of_the_synchronous_one():
    assert inspect.signature(aio.connect).parameters == inspect.signature(connect).parameters


def test_calls_at_the_same_time(target):
    async def main():
        async with aio.connect(target) as client:
            sizes = range(3, 23)
            results = await asyncio.gather(*(client.reconstruct(np.zeros((n, n)), sigma=0.1) for n in sizes))
            assert [result.image.shape for result in results] == [(n, n) for n in sizes]

    asyncio.run(main())


def test_images_from_an_asynchronous_iterable(target):
    async def images():
        for y in (IMAGE, np.full((2, 2), np.nan), IMAGE + 1):
            await asyncio.sleep(0)
            yield y

    async def main():
        async with aio.connect(target) as client:
            first, bad, last = [
                outcome async for outcome in client.reconstruct_many(images(), sigma=[0.1, 0.2, 0.3])
            ]
            assert isinstance(bad, InvalidArgument)
            for found, y, sigma in ((first, IMAGE, 0.1), (last, IMAGE + 1, 0.3)):
                expected = await client.reconstruct(y, sigma=sigma)
                np.testing.assert_array_equal(found.image, expected.image)

    asyncio.run(main())


def test_a_result_does_not_wait_for_the_next_image(target):
    """Each image is made from the result of the last one."""

    async def main():
        results = asyncio.Queue()

        async def images():
            y = IMAGE
            for _ in range(5):
                yield y
                y = (await results.get()).image

        async with aio.connect(target) as client:
            found = []
            async for outcome in client.reconstruct_many(images(), sigma=0.1, timeout=30):
                found.append(outcome.image)
                results.put_nowait(outcome)
            y = IMAGE
            for image in found:
                y = (await client.reconstruct(y, sigma=0.1)).image
                np.testing.assert_array_equal(image, y)
            assert len(found) == 5

    asyncio.run(main())


def test_what_asynchronous_images_raise_reaches_the_caller(target):
    async def images():
        yield IMAGE
        raise KeyError("lost")

    async def main():
        async with aio.connect(target) as client:
            with pytest.raises(KeyError, match="lost"):
                [outcome async for outcome in client.reconstruct_many(images(), sigma=0.1)]

    asyncio.run(main())


def test_a_batch_that_is_left_ends_the_images(target):
    ended = []

    async def images():
        try:
            while True:
                yield IMAGE
        finally:
            ended.append(True)

    async def main():
        async with aio.connect(target) as client:
            source = images()
            outcomes = client.reconstruct_many(source, sigma=0.1)
            await anext(outcomes)
            await outcomes.aclose()
            await source.aclose()
            assert ended == [True]
            assert (await client.reconstruct(IMAGE, sigma=0.1)).image.shape == IMAGE.shape

    asyncio.run(main())


def test_a_folder_that_is_no_index(tmp_path):
    async def main():
        with pytest.raises(NotFound):
            async with aio.connect(tmp_path / "absent"):
                pass
        client = aio.connect(tmp_path / "absent")
        with pytest.raises(NotFound):
            await client.list_indexes()

    asyncio.run(main())


def test_a_server_outside_of_a_coroutine():
    with pytest.raises(RuntimeError, match="no running event loop"):
        aio.connect("grpc://127.0.0.1:1")


@pytest.mark.slow
def test_cancellation_stops_the_work_in_this_process(larger_index):
    """The exact sum here takes minutes; the thread is free soon after."""

    async def main():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with aio.connect(larger_index) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.reconstruct(np.zeros((900, 900), np.float32), sigma=0.1, mode="exact")
            async with asyncio.timeout(20):
                assert (await client.reconstruct(IMAGE, sigma=0.1)).image.shape == IMAGE.shape

    asyncio.run(main())
