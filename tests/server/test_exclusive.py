"""Places of requests that exclude training images."""

import asyncio

import pytest

from lemmse.server.exclusive import Places


def test_a_key_is_taken_once_and_places_are_few():
    async def scenario():
        places, taken = Places(2), []
        free = {name: asyncio.Event() for name in "abcd"}

        async def request(name, key):
            async with places.taken(key):
                taken.append(name)
                await free[name].wait()

        async def until(expected):
            async with asyncio.timeout(10):
                while len(taken) < len(expected):
                    await asyncio.sleep(0)
            assert "".join(taken) == expected

        tasks = [asyncio.create_task(request(name, key)) for name, key in zip("abcd", "xxyz", strict=True)]
        await until("ac")  # b has the key of a, and d no place
        free["c"].set()
        await until("acd")
        free["a"].set()
        await until("acdb")
        free["b"].set()
        free["d"].set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_who_leaves_while_waiting_takes_nothing():
    async def scenario():
        places = Places(1)
        async with places.taken("x"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), places.taken("y"):
                    pass
            async with places.taken(None):  # needs no place
                pass
        async with places.taken("y"):
            return True

    assert asyncio.run(scenario())
