"""Iterate one step ahead, so that the stages of a pipeline work at the same time."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


async def ahead(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Yield the values of a generator, while the one after it is already asked for, in a task of its own.

    What the generator raises is raised after the values before it. It is closed with this one.

    Parameters
    ----------
    source : asynchronous generator
        Yields anything but None.

    Examples
    --------
    >>> async def counted(log):
    ...     for number in range(3):
    ...         log.append(f"made {number}")
    ...         yield number
    >>> async def used():
    ...     log = []
    ...     async for number in ahead(counted(log)):
    ...         await asyncio.sleep(0)
    ...         log.append(f"used {number}")
    ...     return log
    >>> asyncio.run(used())
    ['made 0', 'made 1', 'used 0', 'made 2', 'used 1', 'used 2']
    """
    following = asyncio.create_task(_next(source))
    try:
        while (value := await following) is not None:
            following = asyncio.create_task(_next(source))
            yield value
            del value  # it may be large, and the next one may be long in coming
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await source.aclose()
        del following  # an exception of it refers to this frame


async def _next(source: AsyncGenerator[T, None]) -> T | None:
    """Return the next value of a generator, or None if there is no further one."""
    return await anext(source, None)
