"""The calls that have one request and one answer. Nothing here connects."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lemmse.client.channels import Server
from lemmse.client.crop import middle
from lemmse.contract.chunks import Incoming, attach
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.contract.messages import (
    differentiate_request,
    estimate_noise_request,
    explain_request,
    read_explanation,
    read_index,
    read_noise_estimate,
    read_product,
    read_result,
    reconstruct_request,
)
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, NoiseEstimate, Result, result_bytes
from lemmse.contract.tensors import FloatArray
from lemmse.v1 import admin_pb2
from lemmse.v1 import index_pb2 as pb

__all__ = [
    "Unary",
    "differentiate",
    "estimate_noise",
    "explain",
    "fits",
    "get_index",
    "list_indexes",
    "load_index",
    "reconstruct",
    "set_current_version",
    "unload_index",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unary(Generic[T]):
    """A call."""

    method: Callable[[Server[Any, Any]], Callable[..., Any]]
    """Returns the method of a server."""
    request: Any
    """The message to send."""
    read: Callable[[Any], T]
    """Returns what the answer says; raises MalformedMessage if the answer breaks the contract."""


def fits(measurement: Measurement, options: Options) -> bool:
    """Return whether a measurement and its result fit into a message each."""
    return max(measurement.nbytes, result_bytes(measurement.y.shape, options.maps)) <= INLINE_BYTES


def reconstruct(index: str, measurement: Measurement, options: Options) -> Unary[Result]:
    """Return the call that reconstructs a measurement that fits into a message."""
    return Unary(
        lambda server: server.reconstruction.Reconstruct,
        attach(reconstruct_request(index, measurement, options), measurement.arrays),
        lambda answer: measurement.returned(read_result(Incoming(answer))),
    )


def explain(index: str, measurement: Measurement, options: ExplainOptions) -> Unary[list[Contributor]]:
    """Return the call that explains a pixel of a measurement that fits into a message."""
    return Unary(
        lambda server: server.reconstruction.Explain,
        attach(explain_request(index, measurement, options), measurement.arrays),
        lambda answer: [
            one.scaled(measurement.white_level, measurement.black_level)
            for one in read_explanation(answer).contributors
        ],
    )


def differentiate(
    index: str, measurement: Measurement, vector: FloatArray, options: Options
) -> Unary[NDArray[np.float32]]:
    """Return the call that multiplies a vector by the derivative of a reconstruction.

    Raises
    ------
    InvalidArgument
        Measurement and vector do not fit into a message.
    """
    arrays = {**measurement.arrays, "vector": vector}
    nbytes = sum(array.nbytes for array in arrays.values())
    if nbytes > INLINE_BYTES:
        raise InvalidArgument.of(
            "y",
            f"expected at most {INLINE_BYTES} bytes with vector, sigma and mask, got {nbytes}; use "
            f"float32, or tiles, or an index in this process",
        )
    return Unary(
        lambda server: server.reconstruction.Differentiate,
        attach(differentiate_request(index, measurement, options), arrays),
        lambda answer: measurement.of_kind(read_product(answer)),
    )


def estimate_noise(index: str, measurement: Measurement) -> Unary[NoiseEstimate]:
    """Return the call that estimates the noise of a measurement, of as much of it as fits into a message."""
    measurement = middle(measurement, INLINE_BYTES)
    return Unary(
        lambda server: server.reconstruction.EstimateNoise,
        attach(estimate_noise_request(index, measurement), measurement.arrays),
        read_noise_estimate,
    )


def list_indexes() -> Unary[list[IndexInfo]]:
    """Return the call that lists the indexes."""
    return Unary(
        lambda server: server.indexes.ListIndexes,
        pb.ListIndexesRequest(),
        lambda answer: [read_index(index) for index in answer.indexes],
    )


def get_index(name: str) -> Unary[IndexInfo]:
    """Return the call that describes an index."""
    return Unary(
        lambda server: server.indexes.GetIndex,
        pb.GetIndexRequest(name=name),
        lambda answer: read_index(answer.index),
    )


def load_index(folder: str) -> Unary[IndexInfo]:
    """Return the call that loads an index."""
    return Unary(
        lambda server: server.admin.LoadIndex,
        admin_pb2.LoadIndexRequest(folder=folder),
        lambda answer: read_index(answer.index),
    )


def unload_index(name: str) -> Unary[None]:
    """Return the call that unloads an index."""
    return Unary(
        lambda server: server.admin.UnloadIndex,
        admin_pb2.UnloadIndexRequest(name=name),
        lambda answer: None,
    )


def set_current_version(name: str, version: str) -> Unary[IndexInfo]:
    """Return the call that makes a version of an index the current one."""
    return Unary(
        lambda server: server.admin.SetCurrentVersion,
        admin_pb2.SetCurrentVersionRequest(name=name, version=version),
        lambda answer: read_index(answer.index),
    )
