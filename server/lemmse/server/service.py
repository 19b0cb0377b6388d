"""The gRPC servicers. Each method decodes the request, calls one function and encodes the answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from lemmse.contract.chunks import Incoming, attach, split
from lemmse.contract.errors import MalformedMessage, ResourceExhausted
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.messages import (
    explain_response,
    index_message,
    read_explain_options,
    read_measurement,
    read_options,
    reconstruct_response,
)
from lemmse.contract.results import Result, result_bytes
from lemmse.estimator import Registry
from lemmse.server.calls import logged
from lemmse.server.compute import Compute
from lemmse.server.failures import Failure
from lemmse.server.items import items
from lemmse.v1 import index_pb2, index_pb2_grpc, reconstruction_pb2_grpc
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.tensor_pb2 import TensorChunk

__all__ = ["IndexServicer", "ReconstructionServicer"]

_Context = grpc.aio.ServicerContext[Any, Any]


class IndexServicer(index_pb2_grpc.IndexServiceServicer):
    """The service that describes the indexes of the server."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def ListIndexes(  # noqa: N802, D102
        self, request: index_pb2.ListIndexesRequest, context: _Context
    ) -> index_pb2.ListIndexesResponse:
        with logged("ListIndexes"):
            indexes = [index_message(reconstructor.index.info) for reconstructor in self._registry]
            return index_pb2.ListIndexesResponse(indexes=indexes)

    async def GetIndex(  # noqa: N802, D102
        self, request: index_pb2.GetIndexRequest, context: _Context
    ) -> index_pb2.GetIndexResponse:
        with logged("GetIndex"):
            info = self._registry.get(request.name).index.info
            return index_pb2.GetIndexResponse(index=index_message(info))


class ReconstructionServicer(reconstruction_pb2_grpc.ReconstructionServiceServicer):
    """The service that reconstructs images, and explains reconstructions."""

    def __init__(self, registry: Registry, compute: Compute) -> None:
        self._registry = registry
        self._compute = compute

    async def Reconstruct(  # noqa: N802, D102
        self, request: pb.ReconstructRequest, context: _Context
    ) -> pb.ReconstructResponse:
        with logged("Reconstruct") as facts:
            result = await self._reconstruct(Incoming(request), facts, limit=INLINE_BYTES)
            return await asyncio.to_thread(lambda: attach(*reconstruct_response(result)))

    async def ReconstructStream(  # noqa: N802, D102
        self, request_iterator: AsyncIterator[pb.ReconstructStreamRequest], context: _Context
    ) -> AsyncIterator[pb.ReconstructStreamResponse]:
        with logged("ReconstructStream"):
            async for number, incoming in items(request_iterator):
                try:
                    with logged("ReconstructStream.item") as facts:
                        facts["item"] = number
                        if isinstance(incoming, MalformedMessage):
                            raise incoming
                        result = await self._reconstruct(incoming, facts)
                except Failure as failure:
                    error = failure.status.SerializeToString()
                    yield pb.ReconstructStreamResponse(item=number, error=error)
                    continue
                for part in split(*reconstruct_response(result)):
                    if isinstance(part, TensorChunk):
                        yield pb.ReconstructStreamResponse(item=number, chunk=part)
                    else:
                        yield pb.ReconstructStreamResponse(item=number, response=part)

    async def Explain(  # noqa: N802, D102
        self, request: pb.ExplainRequest, context: _Context
    ) -> pb.ExplainResponse:
        with logged("Explain") as facts:
            reconstructor = self._registry.get(request.index)
            measurement = read_measurement(Incoming(request))
            options = read_explain_options(request, measurement)
            facts |= {"index": reconstructor.index.name, "mode": "exact", "shape": measurement.y.shape}
            with self._compute.admit() as place:
                explanation = await place.run(
                    lambda cancelled: reconstructor.explain_pixel(measurement, options, cancelled)
                )
            return explain_response(explanation)

    async def _reconstruct(
        self,
        incoming: Incoming[pb.ReconstructRequest],
        facts: dict[str, Any],
        limit: int | None = None,
    ) -> Result:
        """Return the result of one request, whose tensors may have at most `limit` bytes."""
        options = read_options(incoming.message)
        measurement = await asyncio.to_thread(read_measurement, incoming)
        reconstructor = self._registry.choose(incoming.message.index, options.quality, measurement)
        shape = measurement.y.shape
        facts |= {
            "index": reconstructor.index.name,
            "estimator": options.estimator,
            "mode": options.mode,
            "shape": shape,
        }
        size = result_bytes(shape, options.maps)
        if limit is not None and size > limit:
            raise ResourceExhausted(
                f"the answer takes {size} bytes, one message holds {limit}; use ReconstructStream"
            )
        with self._compute.admit() as place:
            return await place.run(lambda cancelled: reconstructor.answer(measurement, options, cancelled))
