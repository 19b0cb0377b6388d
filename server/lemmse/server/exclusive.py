"""Places of requests that exclude training images.

Each set of excluded images needs a copy of the keys, of which there are few. Who computes must not wait for
the copy of another, who may get no turn until then. Therefore requests wait here, before they compute.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

__all__ = ["Places"]


class Places:
    """Places for requests, each with a key that no other has at the same time.

    Parameters
    ----------
    count : int
        Number of places.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken: set[Hashable] = set()
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, key: Hashable | None) -> AsyncIterator[None]:
        """Wait for a place and for the key, and hold both in the `with` block; nothing if the key is None."""
        if key is None:
            yield
            return
        async with self._changed:
            await self._changed.wait_for(lambda: key not in self._taken and len(self._taken) < self._count)
            self._taken.add(key)
        try:
            yield
        finally:
            self._taken.discard(key)
            async with self._changed:
                self._changed.notify_all()
