"""Generators that are iterated one step ahead."""

import asyncio
from contextlib import aclosing

import pytest

from lemmse.contract.ahead import ahead


class Source:
    """A generator that notes what it has yielded and that it was closed."""

    def __init__(self, count, error=None):
        self.yielded, self.closed = [], False
        self._count, self._error = count, error

    async def values(self):
        try:
            for number in range(self._count):
                self.yielded.append(number)
                yield number
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("depth", [1, 2])
def test_no_more_than_a_step_ahead(depth):
    async def main():
        source = Source(5)
        values = source.values()
        for _ in range(depth):
            values = ahead(values)
        found = []
        async with aclosing(values):
            async for number in values:
                found.append(number)
                await settled()
                assert len(source.yielded) == min(number + 1 + depth, 5)
        assert found == [0, 1, 2, 3, 4]
        assert source.closed

    asyncio.run(main())


def test_an_error_comes_after_the_values_before_it():
    async def main():
        values = ahead(Source(2, KeyError("lost")).values())
        for number in range(2):
            assert await anext(values) == number
            await settled()  # it was raised
        with pytest.raises(KeyError, match="lost"):
            await anext(values)

    asyncio.run(main())


@pytest.mark.parametrize("cancelled", [False, True])
def test_what_is_under_way_ends_with_it(cancelled):
    async def main():
        ended = []

        async def slow():
            try:
                yield 0
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            finally:
                ended.append("closed")

        async def use():
            async with aclosing(ahead(slow())) as values:
                await anext(values)
                await settled()
                if cancelled:
                    await anext(values)

        task = asyncio.create_task(use())
        await settled()
        await settled()
        await settled()
        if cancelled:
            task.cancel()
        await asyncio.wait([task])
        assert ended == ["cancelled", "closed"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_an_error_that_nobody_asks_for_is_not_reported(caplog):
    async def main():
        async with aclosing(ahead(Source(1, KeyError("lost")).values())) as values:
            await anext(values)
            await settled()

    asyncio.run(main())
    assert caplog.text == ""
