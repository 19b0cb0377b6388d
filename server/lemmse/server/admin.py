"""The servicer that changes the indexes of the server."""

import asyncio
from typing import Any

import grpc

from lemmse.contract.messages import index_message
from lemmse.server.calls import logged
from lemmse.server.catalogue import Catalogue
from lemmse.server.health import Health
from lemmse.v1 import admin_pb2 as pb
from lemmse.v1 import admin_pb2_grpc

__all__ = ["AdminServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """The service that loads and unloads indexes, and changes their current versions."""

    def __init__(self, catalogue: Catalogue, health: Health) -> None:
        self._catalogue = catalogue
        self._health = health

    async def LoadIndex(  # noqa: N802, D102
        self, request: pb.LoadIndexRequest, context: _Context
    ) -> pb.LoadIndexResponse:
        with logged("LoadIndex") as facts:
            facts["folder"] = request.folder[:100]
            info = await asyncio.to_thread(self._catalogue.load, request.folder)
            self._catalogue.tell(self._health)
            return pb.LoadIndexResponse(index=index_message(info))

    async def UnloadIndex(  # noqa: N802, D102
        self, request: pb.UnloadIndexRequest, context: _Context
    ) -> pb.UnloadIndexResponse:
        with logged("UnloadIndex") as facts:
            facts["index"] = request.name[:100]
            await asyncio.to_thread(self._catalogue.unload, request.name)
            self._catalogue.tell(self._health)
            return pb.UnloadIndexResponse()

    async def SetCurrentVersion(  # noqa: N802, D102
        self, request: pb.SetCurrentVersionRequest, context: _Context
    ) -> pb.SetCurrentVersionResponse:
        with logged("SetCurrentVersion") as facts:
            facts |= {"index": request.name[:100], "version": request.version[:20]}
            info = await asyncio.to_thread(self._catalogue.set_current, request.name, request.version)
            self._catalogue.tell(self._health)
            return pb.SetCurrentVersionResponse(index=index_message(info))
