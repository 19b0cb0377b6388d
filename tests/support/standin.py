"""A gRPC server that answers as a test decides, for what the real one does only at bad times.

It lists no indexes, and reconstructs an image as it is.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_status import rpc_status

from lemmse.contract.errors import LemmseError
from lemmse.contract.status import to_status
from lemmse.v1 import index_pb2, index_pb2_grpc, reconstruction_pb2_grpc
from lemmse.v1 import reconstruction_pb2 as pb

Metadata = dict[str, Any]


@dataclass
class StandIn(index_pb2_grpc.IndexServiceServicer, reconstruction_pb2_grpc.ReconstructionServiceServicer):
    """A running server."""

    answer: Callable[[Metadata], LemmseError | None]
    """Returns the error for a call, or an image of a stream, with some metadata; None for an answer."""
    port: int = 0
    calls: list[Metadata] = field(default_factory=list)
    """The metadata of each call and of each image of a stream."""
    health: HealthServicer = field(default_factory=HealthServicer)
    stop: Callable[[], None] = lambda: None
    """Ends the server, and the calls that it has not answered."""

    def ListIndexes(self, request: Any, context: Any) -> index_pb2.ListIndexesResponse:  # noqa: N802
        metadata = dict(context.invocation_metadata())
        self.calls.append(metadata)
        error = self.answer(metadata)
        if error is not None:
            named = (("x-request-id", "the server's name for it"),) if error.request_id else ()
            status = rpc_status.to_status(to_status(error))
            context.abort_with_status(status._replace(trailing_metadata=(*status.trailing_metadata, *named)))
        return index_pb2.ListIndexesResponse()

    def ReconstructStream(self, requests: Any, context: Any) -> Iterator[pb.ReconstructStreamResponse]:  # noqa: N802
        for part in requests:
            metadata = dict(context.invocation_metadata())
            self.calls.append(metadata)
            error = self.answer(metadata)
            if error is None:
                response = pb.ReconstructResponse(image=part.request.y)
                yield pb.ReconstructStreamResponse(item=part.item, response=response)
            else:
                yield pb.ReconstructStreamResponse(item=part.item, error=to_status(error).SerializeToString())


@contextmanager
def standing_in(
    answer: Callable[[Metadata], LemmseError | None] = lambda metadata: None,
    *,
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[StandIn]:
    """Yield a server on a free port of 127.0.0.1, or on the given one."""
    own = StandIn(answer)
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    index_pb2_grpc.add_IndexServiceServicer_to_server(own, server)
    reconstruction_pb2_grpc.add_ReconstructionServiceServicer_to_server(own, server)
    health_pb2_grpc.add_HealthServicer_to_server(own.health, server)
    address = f"127.0.0.1:{port}"
    if credentials is None:
        own.port = server.add_insecure_port(address)
    else:
        own.port = server.add_secure_port(address, credentials)
    own.stop = lambda: server.stop(0).wait()
    server.start()
    try:
        yield own
    finally:
        own.stop()


def in_turn(*errors: LemmseError | None) -> Callable[[Metadata], LemmseError | None]:
    """Return an answer that is each of these errors once, and none from then on."""
    left = list(errors)
    return lambda metadata: left.pop(0) if left else None
