"""The client of a server."""

import json
from collections.abc import Generator, Iterator
from dataclasses import replace

import grpc
import numpy as np

from lemmse.client.arguments import ExplainOptions, Options
from lemmse.client.errors import InvalidArgument, LemmseError
from lemmse.client.interface import Client
from lemmse.client.messages import (
    as_contributor,
    as_index_info,
    as_result,
    explain_request,
    reconstruct_request,
)
from lemmse.client.results import Contributor, IndexInfo, Result
from lemmse.client.status import rpc_errors
from lemmse.client.stream import reconstruct_stream
from lemmse.v1 import index_pb2 as index_pb
from lemmse.v1.index_pb2_grpc import IndexServiceStub
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from lemmse.wire import INLINE_BYTES, MESSAGE_BYTES, FloatArray, Incoming, answer_bytes, attach

__all__ = ["RemoteClient"]

# gRPC retries by itself what a server did not begin; streams are retried by nobody.
_RETRIES = {
    "methodConfig": [
        {
            "name": [
                {"service": "lemmse.v1.ReconstructionService", "method": "Reconstruct"},
                {"service": "lemmse.v1.ReconstructionService", "method": "Explain"},
                {"service": "lemmse.v1.IndexService"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.service_config", json.dumps(_RETRIES)),
    # Also the time that one attempt to connect may take; by default an address that does not answer at all
    # holds a call for 20 s.
    ("grpc.min_reconnect_backoff_ms", 3000),
)


class RemoteClient(Client):
    """A client that asks a server.

    Parameters
    ----------
    address : str
        HOST:PORT.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._reconstruction = ReconstructionServiceStub(self._channel)
        self._indexes = IndexServiceStub(self._channel)

    def __repr__(self) -> str:
        return f"<RemoteClient {self._address}>"

    def _close(self) -> None:
        self._channel.close()

    def _reconstruct(self, y: FloatArray, options: Options, timeout: float | None) -> Result:
        if max(y.nbytes, answer_bytes(y.shape, options.maps)) <= INLINE_BYTES:
            request = attach(reconstruct_request(options), {"y": y})
            with rpc_errors(self._address):
                return as_result(Incoming(self._reconstruction.Reconstruct(request, timeout=timeout)))
        (outcome,) = self._reconstruct_many(iter([y]), options, timeout)
        if isinstance(outcome, LemmseError):
            raise outcome
        return outcome

    def _reconstruct_many(
        self, images: Iterator[FloatArray | InvalidArgument], options: Options, timeout: float | None
    ) -> Generator[Result | LemmseError, None, None]:
        with rpc_errors(self._address):
            yield from reconstruct_stream(self._reconstruction, images, options, timeout)

    def _explain(self, y: FloatArray, options: ExplainOptions, timeout: float | None) -> list[Contributor]:
        if y.nbytes > INLINE_BYTES:
            y, options = _crop(y, options, self._get_index(options.index or "", timeout))
        request = attach(explain_request(options), {"y": y})
        with rpc_errors(self._address):
            response = self._reconstruction.Explain(request, timeout=timeout)
        return [as_contributor(contributor) for contributor in response.contributors]

    def _list_indexes(self, timeout: float | None) -> list[IndexInfo]:
        with rpc_errors(self._address):
            response = self._indexes.ListIndexes(index_pb.ListIndexesRequest(), timeout=timeout)
        return [as_index_info(index) for index in response.indexes]

    def _get_index(self, name: str, timeout: float | None) -> IndexInfo:
        with rpc_errors(self._address):
            response = self._indexes.GetIndex(index_pb.GetIndexRequest(name=name), timeout=timeout)
        return as_index_info(response.index)


def _crop(y: FloatArray, options: ExplainOptions, index: IndexInfo) -> tuple[FloatArray, ExplainOptions]:
    """Cut from an image what the patch at the pixel covers; the cut-out wraps around as the image does."""
    if index.boundary != "circular":
        raise InvalidArgument.of("y", f"expected at most {INLINE_BYTES} bytes, got {y.nbytes}; crop it")
    reach = index.patch_size // 2
    around = np.arange(-reach, reach + 1)
    row, column = options.pixel
    rows, columns = (row + around) % y.shape[0], (column + around) % y.shape[1]
    return y[np.ix_(rows, columns)], replace(options, pixel=(reach, reach))
