"""The client for a server."""

import json
from collections.abc import Generator, Iterator
from dataclasses import replace

import grpc
import numpy as np
from numpy.typing import NDArray

from lemmse.client.interface import Client
from lemmse.client.rpc_errors import rpc_errors
from lemmse.client.stream import reconstruct_stream
from lemmse.contract.chunks import Incoming, attach
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.limits import INLINE_BYTES, MESSAGE_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.contract.messages import (
    explain_request,
    read_explanation,
    read_index,
    read_result,
    reconstruct_request,
)
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, Result, result_bytes
from lemmse.v1 import index_pb2 as index_pb
from lemmse.v1.index_pb2_grpc import IndexServiceStub
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub

__all__ = ["RemoteClient"]

# gRPC retries calls that the server has not begun; streams are not retried.
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
    # This is also the time limit of one attempt to connect. By default, a call to an address that does not
    # answer at all waits for 20 s.
    ("grpc.min_reconnect_backoff_ms", 3000),
)


class RemoteClient(Client):
    """A client for a server.

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

    def _reconstruct(
        self, index: str, measurement: Measurement, options: Options, timeout: float | None
    ) -> Result:
        if max(measurement.nbytes, result_bytes(measurement.y.shape, options.maps)) <= INLINE_BYTES:
            request = attach(reconstruct_request(index, measurement, options), measurement.arrays)
            with rpc_errors(self._address):
                response = self._reconstruction.Reconstruct(request, timeout=timeout)
                return read_result(Incoming(response)).scaled(measurement.white_level)
        (outcome,) = self._reconstruct_many(index, iter([measurement]), options, timeout)
        if isinstance(outcome, LemmseError):
            raise outcome
        return outcome

    def _reconstruct_many(
        self,
        index: str,
        batch: Iterator[Measurement | InvalidArgument],
        options: Options,
        timeout: float | None,
    ) -> Generator[Result | LemmseError, None, None]:
        self._require_open()
        with rpc_errors(self._address):
            yield from reconstruct_stream(self._reconstruction, index, batch, options, timeout)

    def _explain(
        self, index: str, measurement: Measurement, options: ExplainOptions, timeout: float | None
    ) -> list[Contributor]:
        if measurement.nbytes > INLINE_BYTES:
            measurement, options = _crop(measurement, options, self._get_index(index, timeout))
        request = attach(explain_request(index, measurement, options), measurement.arrays)
        with rpc_errors(self._address):
            response = self._reconstruction.Explain(request, timeout=timeout)
        return [one.scaled(measurement.white_level) for one in read_explanation(response).contributors]

    def _list_indexes(self, timeout: float | None) -> list[IndexInfo]:
        with rpc_errors(self._address):
            response = self._indexes.ListIndexes(index_pb.ListIndexesRequest(), timeout=timeout)
        return [read_index(index) for index in response.indexes]

    def _get_index(self, name: str, timeout: float | None) -> IndexInfo:
        with rpc_errors(self._address):
            response = self._indexes.GetIndex(index_pb.GetIndexRequest(name=name), timeout=timeout)
        return read_index(response.index)


def _crop(
    measurement: Measurement, options: ExplainOptions, index: IndexInfo
) -> tuple[Measurement, ExplainOptions]:
    """Return the part of a measurement that the patch at the pixel covers, and the options for this crop.

    Beyond its border, the crop is continued in the same way as the image.
    """
    if index.pre_inverse != "identity":
        raise InvalidArgument.of(
            "y",
            f"expected at most {INLINE_BYTES} bytes, since pre-inverse {index.pre_inverse} needs all of it, "
            f"got {measurement.nbytes}; explain it where the index is",
        )
    reach = index.patch_size // 2
    spans: list[NDArray[np.int64]] = []
    pixel: list[int] = []
    for centre, length in zip(options.pixel, measurement.y.shape, strict=False):
        span = np.arange(centre - reach, centre + reach + 1)
        if index.boundary != "circular":
            # Mirrored pixels are no farther from the edge than the patch extends, so the crop contains them.
            span = span[(span >= 0) & (span < length)]
        spans.append(span % length)
        pixel.append(centre - int(span[0]))
    return measurement.crop(*spans), replace(options, pixel=(pixel[0], pixel[1]))
