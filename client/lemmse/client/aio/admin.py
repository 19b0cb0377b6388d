"""The indexes of a server, changed by an asyncio client."""

from collections.abc import Callable
from typing import Any

from lemmse.client.admin import Admin
from lemmse.client.aio.interface import awaited
from lemmse.client.unary import Unary

__all__ = ["AsyncAdmin"]


class AsyncAdmin:
    """Changes of the indexes of one server; the methods of `lemmse.client.admin.Admin`, to be awaited."""

    def __init__(self, ask: Callable[[Unary[Any], float | None], Any]) -> None:
        self._ask = ask

    load_index = awaited(Admin.load_index)
    unload_index = awaited(Admin.unload_index)
    set_current_version = awaited(Admin.set_current_version)
