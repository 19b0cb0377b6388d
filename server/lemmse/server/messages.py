"""Between the messages of the wire and the arguments and results of the estimator."""

from typing import TypedDict

from lemmse import estimator
from lemmse.estimator import Explanation, Reconstruction
from lemmse.index import Index
from lemmse.v1 import index_pb2, reconstruction_pb2
from lemmse.wire import MAPS, MODES, FloatArray, Incoming, MalformedMessage, mode_name

__all__ = [
    "Arguments",
    "explain_response",
    "index_message",
    "measurement",
    "reconstruct_arguments",
    "reconstruct_response",
]

_MAP_NAMES = {number: name for name, number in MAPS.items()}
_SHARED_FIELDS = (
    "digest",
    "physics",
    "pre_inverse",
    "patch_size",
    "boundary",
    "channels",
    "images",
    "keys",
    "cells",
)


class Arguments(TypedDict):
    """Keyword arguments of `Reconstructor.reconstruct`."""

    sigma: float
    mode: str
    k: int | None
    nprobe: int | None
    maps: frozenset[str]


def measurement(
    incoming: Incoming[reconstruction_pb2.ReconstructRequest] | Incoming[reconstruction_pb2.ExplainRequest],
) -> FloatArray:
    """Return the measurement y of a request.

    Raises
    ------
    MalformedMessage
        It is missing or incomplete.
    """
    arrays = incoming.arrays()
    if "y" not in arrays:
        raise MalformedMessage("y", "expected a tensor, got none")
    return arrays["y"]


def reconstruct_arguments(request: reconstruction_pb2.ReconstructRequest) -> Arguments:
    """Return what a request asks for, besides y.

    Raises
    ------
    MalformedMessage
        A mode or map is none of the contract's.
    """
    try:
        mode = mode_name(request.mode)
    except ValueError as error:
        raise MalformedMessage("mode", f"expected one of {', '.join(MODES)}, got {request.mode}") from error
    unknown = set(request.maps) - set(_MAP_NAMES)
    if unknown:
        raise MalformedMessage("maps", f"expected {', '.join(MAPS)}, got {min(unknown)}")
    topk = request.topk
    return Arguments(
        sigma=request.sigma,
        mode=mode,
        k=topk.k if topk.HasField("k") else None,
        nprobe=topk.nprobe if topk.HasField("nprobe") else None,
        maps=frozenset(_MAP_NAMES[number] for number in request.maps),
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
                image=c.image, source=c.source, row=c.row, column=c.column, weight=c.weight, value=c.value
            )
            for c in explanation.contributors
        ],
        diagnostics=_diagnostics(explanation.diagnostics),
    )


def index_message(index: Index) -> index_pb2.Index:
    """Return the description of an index."""
    shared = {name: getattr(index.manifest, name) for name in _SHARED_FIELDS}
    return index_pb2.Index(name=index.name, version=index.version, **shared)


def _diagnostics(diagnostics: estimator.Diagnostics) -> reconstruction_pb2.Diagnostics:
    return reconstruction_pb2.Diagnostics(
        mode=reconstruction_pb2.Mode.ValueType(MODES[diagnostics.mode]),
        index=diagnostics.index,
        version=diagnostics.version,
        keys=diagnostics.keys,
        keys_touched=diagnostics.keys_touched,
        seconds=diagnostics.seconds,
    )
