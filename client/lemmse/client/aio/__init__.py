"""The asyncio client: `connect` as in `lemmse.client`, and the same methods to be awaited."""

from lemmse.client.aio.connecting import connect
from lemmse.client.aio.interface import AsyncClient

__all__ = ["AsyncClient", "connect"]
