"""Conversion of measurements, options and results to and from the messages of `lemmse.v1`.

Arrays are passed beside the messages, by the name of their tensor field: `attach` and `split` insert them,
and `Incoming` extracts them.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.choices import AGGREGATES
from lemmse.contract.chunks import Incoming, attach
from lemmse.contract.errors import MalformedMessage
from lemmse.contract.fields import get, get_all, put, put_all
from lemmse.contract.measurement import Measurement, checked_vector
from lemmse.contract.options import OPTIONS, PRIOR_OPTIONS, ExplainOptions, Options
from lemmse.contract.results import Contributor, Diagnostics, Explanation, IndexInfo, Result
from lemmse.contract.tensors import FloatArray, WireArray
from lemmse.v1 import index_pb2
from lemmse.v1 import reconstruction_pb2 as pb

__all__ = [
    "differentiate_request",
    "differentiate_response",
    "explain_request",
    "explain_response",
    "index_message",
    "read_differentiate_options",
    "read_explain_options",
    "read_explanation",
    "read_index",
    "read_measurement",
    "read_options",
    "read_product",
    "read_result",
    "read_vector",
    "reconstruct_request",
    "reconstruct_response",
]

_KINDS = {"y": "f", "sigma_map": "f", "mask": "u", "vector": "f"}
"""NumPy dtype kind of each tensor of a request: float or unsigned integer."""


def reconstruct_request(index: str, measurement: Measurement, options: Options) -> pb.ReconstructRequest:
    """Return the request to reconstruct a measurement, without the arrays of the measurement."""
    request = pb.ReconstructRequest(index=index)
    for option in OPTIONS:
        put(request, option.path, getattr(options, option.name))
    _put_sigma(request, measurement)
    return request


def read_options(request: pb.ReconstructRequest) -> Options:
    """Return the options of a request.

    Raises
    ------
    MalformedMessage
        An enumeration has an unknown number.
    InvalidArgument
        An option is out of range.
    """
    return Options(**{option.name: get(request, option.path, option.default) for option in OPTIONS})


def explain_request(index: str, measurement: Measurement, options: ExplainOptions) -> pb.ExplainRequest:
    """Return the request to explain a pixel of a measurement, without the arrays of the measurement."""
    row, column = options.pixel
    request = pb.ExplainRequest(index=index, row=row, column=column, top=options.top)
    _put_sigma(request, measurement)
    return request


def read_explain_options(request: pb.ExplainRequest, measurement: Measurement) -> ExplainOptions:
    """Return the options of a request to explain a pixel of a measurement.

    Raises
    ------
    InvalidArgument
        An option is out of range.
    """
    pixel = request.row, request.column
    return ExplainOptions.checked(measurement.y.shape, pixel=pixel, top=request.top)


def read_measurement(
    incoming: Incoming[pb.ReconstructRequest]
    | Incoming[pb.ExplainRequest]
    | Incoming[pb.DifferentiateRequest],
) -> Measurement:
    """Return the measurement of a request.

    Raises
    ------
    MalformedMessage
        A tensor is missing, incomplete or of the wrong element type, or sigma is missing.
    InvalidArgument
        A shape or a value is invalid.
    """
    request, arrays = incoming.message, incoming.arrays()
    _required(incoming, "y")
    if request.WhichOneof("noise") is None:
        raise MalformedMessage.of("sigma", "expected sigma or sigma_map, got neither")
    for name, array in arrays.items():
        if array.dtype.kind != _KINDS[name]:
            expected = "uint8" if name == "mask" else "float32 or float64"
            raise MalformedMessage.of(f"{name}.dtype", f"expected {expected}, got {array.dtype}")
    return Measurement.checked(
        arrays["y"], sigma=arrays.get("sigma_map", request.sigma), mask=arrays.get("mask")
    )


def differentiate_request(index: str, measurement: Measurement, options: Options) -> pb.DifferentiateRequest:
    """Return the request to differentiate a reconstruction, without the arrays of measurement and vector."""
    request = pb.DifferentiateRequest(index=index)
    for option in PRIOR_OPTIONS:
        put(request, option.path, getattr(options, option.name))
    _put_sigma(request, measurement)
    return request


def read_differentiate_options(request: pb.DifferentiateRequest) -> Options:
    """Return the options of a request to differentiate a reconstruction; raises like `read_options`."""
    return Options(**{option.name: get(request, option.path, option.default) for option in PRIOR_OPTIONS})


def read_vector(incoming: Incoming[pb.DifferentiateRequest], measurement: Measurement) -> FloatArray:
    """Return the vector of a request whose measurement was read.

    Raises
    ------
    MalformedMessage
        It is missing.
    InvalidArgument
        It has another shape than the measurement, or a number that is too large.
    """
    return checked_vector(_required(incoming, "vector"), measurement.y.shape)


def differentiate_response(product: NDArray[np.float32]) -> pb.DifferentiateResponse:
    """Return the response for a product of a vector and a derivative."""
    return attach(pb.DifferentiateResponse(), {"product": product})


def read_product(response: pb.DifferentiateResponse) -> NDArray[np.float32]:
    """Return the product of a response.

    Raises
    ------
    MalformedMessage
        It is missing or incomplete.
    """
    return _required(Incoming(response), "product").astype(np.float32)


def reconstruct_response(result: Result) -> tuple[pb.ReconstructResponse, Mapping[str, WireArray]]:
    """Return the response for a result, without its arrays, and the arrays by field name."""
    return pb.ReconstructResponse(diagnostics=_diagnostics(result.diagnostics)), result.arrays


def read_result(incoming: Incoming[pb.ReconstructResponse]) -> Result:
    """Return the result of a complete response, in intensities.

    Raises
    ------
    MalformedMessage
        The image is missing or incomplete.
    """
    arrays: dict[str, Any] = {
        name: array.astype(np.float32, copy=False) for name, array in incoming.arrays().items()
    }
    _required(incoming, "image")
    return Result(diagnostics=_read_diagnostics(incoming.message.diagnostics), **arrays)


def explain_response(explanation: Explanation) -> pb.ExplainResponse:
    """Return the response for an explanation."""
    return pb.ExplainResponse(
        contributors=[put_all(pb.Contributor(), asdict(one)) for one in explanation.contributors],
        diagnostics=_diagnostics(explanation.diagnostics),
    )


def read_explanation(response: pb.ExplainResponse) -> Explanation:
    """Return the explanation of a response, in intensities."""
    return Explanation(
        contributors=tuple(Contributor(**get_all(one, _names(Contributor))) for one in response.contributors),
        diagnostics=_read_diagnostics(response.diagnostics),
    )


def index_message(info: IndexInfo) -> index_pb2.Index:
    """Return the message that describes an index."""
    return put_all(index_pb2.Index(), asdict(info))


def read_index(message: index_pb2.Index) -> IndexInfo:
    """Return the description of an index."""
    return IndexInfo(**get_all(message, _names(IndexInfo)))


def _diagnostics(diagnostics: Diagnostics) -> pb.Diagnostics:
    return put_all(pb.Diagnostics(), asdict(diagnostics))


def _read_diagnostics(message: pb.Diagnostics) -> Diagnostics:
    values = get_all(message, _names(Diagnostics))
    # A server that does not send the aggregate supports only centre.
    return Diagnostics(**values | {"aggregate": values["aggregate"] or next(iter(AGGREGATES))})


def _required(incoming: Incoming[Any], name: str) -> WireArray:
    """Return an array that a message must have."""
    array = incoming.arrays().get(name)
    if array is None:
        raise MalformedMessage.of(name, "expected a tensor, got none")
    return array


def _names(kind: type[Any]) -> list[str]:
    """Return the names of the fields of a dataclass."""
    return [field.name for field in fields(kind)]


def _put_sigma(
    request: pb.ReconstructRequest | pb.ExplainRequest | pb.DifferentiateRequest, measurement: Measurement
) -> None:
    """Set the field sigma if sigma is one number; a map is sent as a tensor."""
    if isinstance(measurement.sigma, float):
        request.sigma = measurement.sigma
