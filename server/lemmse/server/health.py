"""The health service: the status of the server, of each service and of each index.

grpc_health's own servicer for asyncio forgets all watchers of a service as soon as one of them leaves.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
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
    """The health service. Create and call it in the event loop of the server.

    Its statuses change in one step, and only those who wait for one that has changed are told.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._stopping = False

    def update(self, serving: Mapping[str, bool], gone: Iterable[str] = ()) -> None:
        """Change statuses, and tell their watchers; without effect once the server stops.

        Parameters
        ----------
        serving : mapping of str to bool
            Whether services serve, by name.
        gone : iterable of str
            Services to forget; whoever asks for one is told that it is unknown.
        """
        if not self._stopping:
            forgotten = set(gone)
            kept = {name: status for name, status in self._statuses.items() if name not in forgotten}
            self._put(kept | {name: _SERVING if does else _NOT_SERVING for name, does in serving.items()})

    def stop(self) -> None:
        """Set the status of all services to NOT_SERVING for good."""
        self._stopping = True
        self._put(dict.fromkeys(self._statuses, _NOT_SERVING))

    def _put(self, statuses: dict[str, int]) -> None:
        if statuses != self._statuses:
            self._statuses = statuses
            self._changed.set()
            self._changed = asyncio.Event()

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
            while (status := self._statuses.get(request.service, _UNKNOWN)) == told:
                await self._changed.wait()
            yield health_pb2.HealthCheckResponse(status=status)
            told = status
