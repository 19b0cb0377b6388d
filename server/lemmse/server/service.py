"""The servicers: each method decodes, calls one function, encodes."""

from collections.abc import Iterator
from typing import Any

import grpc

from lemmse.contract import (
    INLINE_BYTES,
    MAX_CONTRIBUTORS,
    Incoming,
    MalformedMessage,
    answer_bytes,
    attach,
    split,
)
from lemmse.contract.errors import InvalidArgument, ResourceExhausted
from lemmse.estimator import Reconstruction, Registry
from lemmse.server.calls import answering, logged
from lemmse.server.compute import Compute, Place
from lemmse.server.failures import Failure
from lemmse.server.items import items
from lemmse.server.messages import (
    explain_response,
    index_message,
    measurement,
    reconstruct_arguments,
    reconstruct_response,
)
from lemmse.v1 import index_pb2, index_pb2_grpc, reconstruction_pb2_grpc
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.tensor_pb2 import TensorChunk

__all__ = ["IndexServicer", "ReconstructionServicer"]


class IndexServicer(index_pb2_grpc.IndexServiceServicer):
    """Tells what the server can answer from."""

    def __init__(self, catalogue: Registry) -> None:
        self._registry = catalogue

    def ListIndexes(  # noqa: N802, D102
        self, request: index_pb2.ListIndexesRequest, context: grpc.ServicerContext
    ) -> index_pb2.ListIndexesResponse:
        with answering(context, "ListIndexes"):
            indexes = [index_message(reconstructor.index) for reconstructor in self._registry]
            return index_pb2.ListIndexesResponse(indexes=indexes)

    def GetIndex(  # noqa: N802, D102
        self, request: index_pb2.GetIndexRequest, context: grpc.ServicerContext
    ) -> index_pb2.GetIndexResponse:
        with answering(context, "GetIndex"):
            index = self._registry.get(request.name).index
            return index_pb2.GetIndexResponse(index=index_message(index))


class ReconstructionServicer(reconstruction_pb2_grpc.ReconstructionServiceServicer):
    """Reconstructs, and explains reconstructions."""

    def __init__(self, catalogue: Registry, compute: Compute) -> None:
        self._registry = catalogue
        self._compute = compute

    def Reconstruct(  # noqa: N802, D102
        self, request: pb.ReconstructRequest, context: grpc.ServicerContext
    ) -> pb.ReconstructResponse:
        with (
            answering(context, "Reconstruct") as facts,
            self._compute.admit(context.add_callback) as place,
        ):
            answer = self._reconstruct(Incoming(request), place, facts, limit=INLINE_BYTES)
            return attach(*reconstruct_response(answer))

    def ReconstructStream(  # noqa: N802, D102
        self, request_iterator: Iterator[pb.ReconstructStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ReconstructStreamResponse]:
        with (
            answering(context, "ReconstructStream"),
            self._compute.admit(context.add_callback) as place,
        ):
            for number, incoming in items(request_iterator):
                try:
                    with logged("ReconstructStream.item") as facts:
                        facts["item"] = number
                        if isinstance(incoming, MalformedMessage):
                            raise incoming
                        answer = self._reconstruct(incoming, place, facts)
                except Failure as failure:
                    error = failure.status.SerializeToString()
                    yield pb.ReconstructStreamResponse(item=number, error=error)
                    continue
                for part in split(*reconstruct_response(answer)):
                    if isinstance(part, TensorChunk):
                        yield pb.ReconstructStreamResponse(item=number, chunk=part)
                    else:
                        yield pb.ReconstructStreamResponse(item=number, response=part)

    def Explain(  # noqa: N802, D102
        self, request: pb.ExplainRequest, context: grpc.ServicerContext
    ) -> pb.ExplainResponse:
        with (
            answering(context, "Explain") as facts,
            self._compute.admit(context.add_callback) as place,
        ):
            reconstructor = self._registry.get(request.index)
            measured = measurement(Incoming(request))
            facts |= {"index": reconstructor.index.name, "mode": "exact", "shape": measured["y"].shape}
            if request.top > MAX_CONTRIBUTORS:
                raise InvalidArgument.of("top", f"expected at most {MAX_CONTRIBUTORS}, got {request.top}")
            explanation = place.run(
                lambda cancelled: reconstructor.explain(
                    **measured,
                    pixel=(request.row, request.column),
                    top=request.top,
                    cancelled=cancelled,
                )
            )
            return explain_response(explanation)

    def _reconstruct(
        self,
        incoming: Incoming[pb.ReconstructRequest],
        place: Place,
        facts: dict[str, Any],
        limit: int | None = None,
    ) -> Reconstruction:
        """Answer one request; `limit` bounds the tensor bytes of the answer."""
        request = incoming.message
        measured = measurement(incoming)
        arguments = reconstruct_arguments(request)
        reconstructor = self._registry.choose(request.index, arguments["quality"], **measured)
        shape = measured["y"].shape
        facts |= {
            "index": reconstructor.index.name,
            "estimator": arguments["estimator"],
            "mode": arguments["mode"],
            "shape": shape,
        }
        size = answer_bytes(shape, arguments["maps"])
        if limit is not None and size > limit:
            raise ResourceExhausted(
                f"the answer takes {size} bytes, one message holds {limit}; use ReconstructStream"
            )
        return place.run(
            lambda cancelled: reconstructor.reconstruct(**measured, **arguments, cancelled=cancelled)
        )
