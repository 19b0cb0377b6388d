"""The health service: the status of the server, of each service and of each index.

grpc_health's own servicer for asyncio forgets all watchers of a service as soon as one of them leaves.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lemmse.contract.errors import NotFound

__all__ = ["Health", "health_name"]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_Context = grpc.aio.ServicerContext[Any, Any]


def health_name(index: str) -> str:
    """Return the name by which clients ask for the health of an index.

    Examples
    --------
    >>> health_name("photos")
    'index/photos'
    """
    return f"index/{index}"


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The health service. Create and call it in the event loop of the server."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._stopping = False

    async def set(self, service: str, *, serving: bool) -> None:
        """Set the status of a service, and tell its watchers; without effect once the server stops."""
        if not self._stopping:
            async with self._changed:
                self._statuses[service] = _SERVING if serving else _NOT_SERVING
                self._changed.notify_all()

    async def remove(self, service: str) -> None:
        """Forget a service; whoever asks for it is told that it is unknown."""
        async with self._changed:
            self._statuses.pop(service, None)
            self._changed.notify_all()

    async def stop(self) -> None:
        """Set the status of all services to NOT_SERVING for good."""
        self._stopping = True
        async with self._changed:
            self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
            self._changed.notify_all()

    async def Check(  # noqa: N802, D102
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            raise NotFound(f"service: expected a service, or index/NAME, got {request.service!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802, D102
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told = None
        while True:
            async with self._changed:
                while (status := self._statuses.get(request.service, _UNKNOWN)) == told:
                    await self._changed.wait()
            yield health_pb2.HealthCheckResponse(status=status)
            told = status
