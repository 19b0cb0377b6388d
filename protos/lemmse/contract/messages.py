"""Conversion of measurements, options and results to and from the messages of `lemmse.v1`.

Arrays are passed beside the messages, by the name of their tensor field: `attach` and `split` insert them,
and `Incoming` extracts them.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.choices import AGGREGATES
from lemmse.contract.chunks import Incoming, attach
from lemmse.contract.errors import MalformedMessage
from lemmse.contract.fields import get, get_all, put, put_all
from lemmse.contract.measurement import Measurement
from lemmse.contract.measurement_arguments import AUTO, POISSON_GAUSSIAN, checked_vector
from lemmse.contract.options import OPTIONS, PRIOR_OPTIONS, ExplainOptions, Options
from lemmse.contract.results import Contributor, Diagnostics, Explanation, IndexInfo, NoiseEstimate, Result
from lemmse.contract.tensors import FloatArray, WireArray
from lemmse.v1 import index_pb2
from lemmse.v1 import reconstruction_pb2 as pb

__all__ = [
    "differentiate_request",
    "differentiate_response",
    "estimate_noise_request",
    "estimate_noise_response",
    "explain_request",
    "explain_response",
    "index_message",
    "read_differentiate_options",
    "read_explain_options",
    "read_explanation",
    "read_index",
    "read_measurement",
    "read_noise_estimate",
    "read_options",
    "read_product",
    "read_result",
    "read_vector",
    "reconstruct_request",
    "reconstruct_response",
]

_Request = pb.ReconstructRequest | pb.ExplainRequest | pb.DifferentiateRequest | pb.EstimateNoiseRequest
"""The requests that have a measurement."""
_KINDS = {"y": "f", "sigma_map": "f", "mask": "u", "vector": "f"}
"""NumPy dtype kind of each tensor of a request: float or unsigned integer."""


def reconstruct_request(index: str, measurement: Measurement, options: Options) -> pb.ReconstructRequest:
    """Return the request to reconstruct a measurement, without the arrays of the measurement."""
    request = pb.ReconstructRequest(index=index)
    for option in OPTIONS:
        put(request, option.path, getattr(options, option.name))
    _put_noise(request, measurement)
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
    *planes, row, column = options.pixel
    request = pb.ExplainRequest(
        index=index,
        row=row,
        column=column,
        top=options.top,
        context=options.context,
        exclude=options.exclude,
    )
    if planes:
        request.plane = planes[0]
    _put_noise(request, measurement)
    return request


def read_explain_options(request: pb.ExplainRequest, measurement: Measurement) -> ExplainOptions:
    """Return the options of a request to explain a pixel of a measurement.

    Raises
    ------
    InvalidArgument
        An option is out of range.
    """
    plane = [request.plane] if request.HasField("plane") else []
    return ExplainOptions.checked(
        measurement.y.shape,
        pixel=(*plane, request.row, request.column),
        top=request.top,
        context=get(request, "context"),
        exclude=request.exclude,
    )


def read_measurement(
    incoming: Incoming[pb.ReconstructRequest]
    | Incoming[pb.ExplainRequest]
    | Incoming[pb.DifferentiateRequest]
    | Incoming[pb.EstimateNoiseRequest],
) -> Measurement:
    """Return the measurement of a request; what is to be estimated of its noise is "auto".

    Raises
    ------
    MalformedMessage
        A tensor is missing, incomplete or of the wrong element type, or sigma is missing.
    InvalidArgument
        A shape or a value is invalid.
    """
    request, arrays = incoming.message, incoming.arrays()
    _required(incoming, "y")
    noise = _which_noise(request)
    for name, array in arrays.items():
        if array.dtype.kind != _KINDS[name]:
            expected = "uint8" if name == "mask" else "float32 or float64"
            raise MalformedMessage.of(f"{name}.dtype", f"expected {expected}, got {array.dtype}")
    mask = arrays.get("mask")
    if noise == "poisson_gaussian":
        sigma, gain = (get(request.poisson_gaussian, name, AUTO) for name in ("sigma", "gain"))
        return Measurement.checked(arrays["y"], sigma=sigma, mask=mask, noise=POISSON_GAUSSIAN, gain=gain)
    sigma = AUTO if noise == "auto" else arrays.get("sigma_map", getattr(request, "sigma", None))
    return Measurement.checked(arrays["y"], sigma=sigma, mask=mask)


def _which_noise(request: _Request) -> str:
    """Return the name of the field that states the noise."""
    if isinstance(request, pb.EstimateNoiseRequest):
        return "poisson_gaussian" if request.HasField("poisson_gaussian") else AUTO
    noise = request.WhichOneof("noise")
    if noise is None:
        raise MalformedMessage.of("sigma", "expected sigma, sigma_map, auto or poisson_gaussian, got none")
    return noise


def differentiate_request(index: str, measurement: Measurement, options: Options) -> pb.DifferentiateRequest:
    """Return the request to differentiate a reconstruction, without the arrays of measurement and vector."""
    request = pb.DifferentiateRequest(index=index)
    for option in PRIOR_OPTIONS:
        put(request, option.path, getattr(options, option.name))
    _put_noise(request, measurement)
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
        contributors=[_contributor(one) for one in explanation.contributors],
        diagnostics=_diagnostics(explanation.diagnostics),
    )


def read_explanation(response: pb.ExplainResponse) -> Explanation:
    """Return the explanation of a response, in intensities."""
    return Explanation(
        contributors=tuple(map(_read_contributor, response.contributors)),
        diagnostics=_read_diagnostics(response.diagnostics),
    )


def estimate_noise_request(index: str, measurement: Measurement) -> pb.EstimateNoiseRequest:
    """Return the request to estimate the noise of a measurement, without the arrays of the measurement."""
    request = pb.EstimateNoiseRequest(index=index)
    _put_noise(request, measurement)
    return request


def estimate_noise_response(estimate: NoiseEstimate) -> pb.EstimateNoiseResponse:
    """Return the response for an estimate of noise."""
    return put_all(pb.EstimateNoiseResponse(), asdict(estimate))


def read_noise_estimate(response: pb.EstimateNoiseResponse) -> NoiseEstimate:
    """Return the estimate of a response."""
    return NoiseEstimate(**get_all(response, _names(NoiseEstimate)))


def _contributor(contributor: Contributor) -> pb.Contributor:
    message = put_all(pb.Contributor(), asdict(replace(contributor, crop=None)))
    return message if contributor.crop is None else attach(message, {"crop": contributor.crop})


def _read_contributor(message: pb.Contributor) -> Contributor:
    values = get_all(message, _names(Contributor))
    return Contributor(**values | {"crop": Incoming(message).arrays().get("crop")})


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


def _put_noise(request: _Request, measurement: Measurement) -> None:
    """Set the field of the noise, unless it is a map, which is sent as a tensor."""
    if measurement.gain is not None:
        request.poisson_gaussian.SetInParent()
        for name in ("sigma", "gain"):
            value = getattr(measurement, name)
            put(request.poisson_gaussian, name, None if isinstance(value, str) else value)
    elif isinstance(request, pb.EstimateNoiseRequest):
        return
    elif isinstance(measurement.sigma, float):
        request.sigma = measurement.sigma
    elif isinstance(measurement.sigma, str):
        request.auto.SetInParent()
