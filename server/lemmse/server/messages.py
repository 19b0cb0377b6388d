"""Between the messages of the wire and the arguments and results of the estimator."""

from collections.abc import Callable, Collection
from typing import TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from lemmse import estimator
from lemmse.contract import (
    AGGREGATES,
    ERRORS,
    ESTIMATORS,
    MAPS,
    MODES,
    QUALITIES,
    FloatArray,
    Incoming,
    MalformedMessage,
    WireArray,
    aggregate_name,
    error_name,
    estimator_name,
    mode_name,
    quality_name,
)
from lemmse.estimator import Explanation, Reconstruction
from lemmse.index import Index
from lemmse.v1 import index_pb2, reconstruction_pb2

__all__ = [
    "Arguments",
    "Measurement",
    "explain_response",
    "index_message",
    "measurement",
    "reconstruct_arguments",
    "reconstruct_response",
]

T = TypeVar("T")

_MAP_NAMES = {number: name for name, number in MAPS.items()}
_SHARED_FIELDS = (
    "digest",
    "physics",
    "pre_inverse",
    "patch_size",
    "boundary",
    "equivariance",
    "augment",
    "channels",
    "images",
    "keys",
    "distinct",
    "cells",
)

_KINDS = {"y": "f", "sigma_map": "f", "mask": "u"}
"""What the elements of a request's tensors are: floats, or unsigned integers."""


class Measurement(TypedDict):
    """Arguments that say what was measured; both methods of `Reconstructor` take them."""

    y: WireArray
    sigma: float | WireArray
    mask: NDArray[np.bool_] | None


class Arguments(TypedDict):
    """The other keyword arguments of `Reconstructor.reconstruct`."""

    estimator: str
    mode: str
    k: int | None
    nprobe: int | None
    accuracy_db: float | None
    budget: int | None
    maps: frozenset[str]
    error: str
    aggregate: str | None
    bandwidth: float | None
    gaussian_share: float | None
    quality: str


def measurement(
    incoming: Incoming[reconstruction_pb2.ReconstructRequest] | Incoming[reconstruction_pb2.ExplainRequest],
) -> Measurement:
    """Return what was measured according to a request.

    Raises
    ------
    MalformedMessage
        A tensor is missing, incomplete or of other elements than the contract's, or there is no sigma.
    """
    request, arrays = incoming.message, incoming.arrays()
    if "y" not in arrays:
        raise MalformedMessage.of("y", "expected a tensor, got none")
    if request.WhichOneof("noise") is None:
        raise MalformedMessage.of("sigma", "expected sigma or sigma_map, got neither")
    for field, array in arrays.items():
        if array.dtype.kind != _KINDS[field]:
            expected = "uint8" if field == "mask" else "float32 or float64"
            raise MalformedMessage.of(f"{field}.dtype", f"expected {expected}, got {array.dtype}")
    return Measurement(
        y=arrays["y"],
        sigma=arrays.get("sigma_map", request.sigma),
        mask=arrays["mask"] != 0 if "mask" in arrays else None,
    )


def reconstruct_arguments(request: reconstruction_pb2.ReconstructRequest) -> Arguments:
    """Return what a request asks for, besides what was measured.

    Raises
    ------
    MalformedMessage
        An estimator, mode, map, kind of error, aggregate or quality is none of the contract's.
    """
    unknown = set(request.maps) - set(_MAP_NAMES)
    if unknown:
        raise MalformedMessage.of("maps", f"expected {', '.join(MAPS)}, got {min(unknown)}")
    topk, hybrid = request.topk, request.hybrid
    return Arguments(
        estimator=_named("estimator", request.estimator, estimator_name, ESTIMATORS),
        mode=_named("mode", request.mode, mode_name, MODES),
        k=topk.k if topk.HasField("k") else None,
        nprobe=topk.nprobe if topk.HasField("nprobe") else None,
        accuracy_db=hybrid.accuracy_db if hybrid.HasField("accuracy_db") else None,
        budget=hybrid.budget if hybrid.HasField("budget") else None,
        maps=frozenset(_MAP_NAMES[number] for number in request.maps),
        error=_named("error", request.error, error_name, ERRORS),
        aggregate=_named("aggregate", request.aggregate, aggregate_name, AGGREGATES),
        bandwidth=request.bandwidth if request.HasField("bandwidth") else None,
        gaussian_share=request.gaussian_share if request.HasField("gaussian_share") else None,
        quality=_named("quality", request.quality, quality_name, QUALITIES),
    )


def reconstruct_response(
    result: Reconstruction,
) -> tuple[reconstruction_pb2.ReconstructResponse, dict[str, FloatArray]]:
    """Return the answer and its arrays by field name."""
    arrays: dict[str, FloatArray] = {"image": result.image}
    for name in MAPS:
        values = getattr(result, name)
        if values is not None:
            arrays[name] = values
    return reconstruction_pb2.ReconstructResponse(diagnostics=_diagnostics(result.diagnostics)), arrays


def explain_response(explanation: Explanation) -> reconstruction_pb2.ExplainResponse:
    """Return the answer to an Explain request."""
    return reconstruction_pb2.ExplainResponse(
        contributors=[
            reconstruction_pb2.Contributor(
                image=c.image,
                source=c.source,
                row=c.row,
                column=c.column,
                weight=c.weight,
                value=c.value,
                symmetry=c.symmetry,
            )
            for c in explanation.contributors
        ],
        diagnostics=_diagnostics(explanation.diagnostics),
    )


def index_message(index: Index) -> index_pb2.Index:
    """Return the description of an index."""
    shared = {name: getattr(index.manifest, name) for name in _SHARED_FIELDS}
    height, width = index.image_size
    return index_pb2.Index(
        name=index.name, version=index.version, image_height=height, image_width=width, **shared
    )


def _named(field: str, number: int, name: Callable[[int], T], names: Collection[str]) -> T:
    """Return what a field names by its number."""
    try:
        return name(number)
    except ValueError as error:
        raise MalformedMessage.of(field, f"expected one of {', '.join(names)}, got {number}") from error


def _diagnostics(diagnostics: estimator.Diagnostics) -> reconstruction_pb2.Diagnostics:
    return reconstruction_pb2.Diagnostics(
        mode=reconstruction_pb2.Mode.ValueType(MODES[diagnostics.mode]),
        index=diagnostics.index,
        version=diagnostics.version,
        keys=diagnostics.keys,
        keys_touched=diagnostics.keys_touched,
        seconds=diagnostics.seconds,
        expected_accuracy_db=diagnostics.expected_accuracy_db,
        certified=diagnostics.certified,
        aggregate=reconstruction_pb2.Aggregate.ValueType(AGGREGATES[diagnostics.aggregate]),
        bandwidth=diagnostics.bandwidth,
        gaussian_share=diagnostics.gaussian_share,
    )
