"""Between the client's options and results and the messages of the wire."""

from dataclasses import fields

import numpy as np

from lemmse.client.arguments import ExplainOptions, Options
from lemmse.client.measurement import Measurement
from lemmse.client.results import Contributor, Diagnostics, IndexInfo, Result
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
    aggregate_name,
    attach,
    mode_name,
)
from lemmse.v1 import index_pb2
from lemmse.v1 import reconstruction_pb2 as pb

__all__ = ["as_contributor", "as_index_info", "as_result", "explain_request", "reconstruct_request"]


def reconstruct_request(measurement: Measurement, options: Options) -> pb.ReconstructRequest:
    """Return the request for an image, yet without the arrays of the measurement."""
    request = pb.ReconstructRequest(
        index=options.index or "",
        estimator=pb.Estimator.ValueType(ESTIMATORS[options.estimator]),
        mode=pb.Mode.ValueType(MODES[options.mode]),
        topk=pb.TopK(k=options.k, nprobe=options.nprobe),
        hybrid=pb.Hybrid(accuracy_db=options.accuracy_db, budget=options.budget),
        maps=[pb.Map.ValueType(MAPS[name]) for name in sorted(options.maps)],
        error=pb.ErrorKind.ValueType(ERRORS[options.error]),
        bandwidth=options.bandwidth,
        gaussian_share=options.gaussian_share,
        quality=pb.Quality.ValueType(QUALITIES[options.quality]),
    )
    if options.aggregate is not None:
        request.aggregate = pb.Aggregate.ValueType(AGGREGATES[options.aggregate])
    _set_sigma(request, measurement.sigma)
    return request


def explain_request(measurement: Measurement, options: ExplainOptions) -> pb.ExplainRequest:
    """Return the request for an explanation."""
    row, column = options.pixel
    request = pb.ExplainRequest(index=options.index or "", row=row, column=column, top=options.top)
    _set_sigma(request, measurement.sigma)
    return attach(request, measurement.arrays)


def as_result(incoming: Incoming[pb.ReconstructResponse]) -> Result:
    """Return the result that a complete answer holds, in intensities.

    Raises
    ------
    MalformedMessage
        The answer has no image, or not all of it.
    """
    arrays = {name: array.astype(np.float32, copy=False) for name, array in incoming.arrays().items()}
    if "image" not in arrays:
        raise MalformedMessage.of("image", "expected a tensor, got none")
    return Result(
        image=arrays["image"],
        **{name: arrays.get(name) for name in MAPS},
        diagnostics=_as_diagnostics(incoming.message.diagnostics),
    )


def as_contributor(message: pb.Contributor) -> Contributor:
    """Return the training patch that a message names."""
    return Contributor(
        image=message.image,
        source=message.source,
        row=message.row,
        column=message.column,
        weight=message.weight,
        value=tuple(message.value),
        symmetry=message.symmetry,
    )


def as_index_info(message: index_pb2.Index) -> IndexInfo:
    """Return the index that a message describes."""
    return IndexInfo(**{field.name: getattr(message, field.name) for field in fields(IndexInfo)})


def _as_diagnostics(message: pb.Diagnostics) -> Diagnostics:
    expected = message.expected_accuracy_db if message.HasField("expected_accuracy_db") else None
    return Diagnostics(
        mode=mode_name(message.mode),
        index=message.index,
        version=message.version,
        keys=message.keys,
        keys_touched=message.keys_touched,
        seconds=message.seconds,
        expected_accuracy_db=expected,
        certified=message.certified if message.HasField("certified") else None,
        aggregate=aggregate_name(message.aggregate) or "centre",  # a server that does not say knows no other
        bandwidth=message.bandwidth,
        gaussian_share=message.gaussian_share,
    )


def _set_sigma(request: pb.ReconstructRequest | pb.ExplainRequest, sigma: float | FloatArray) -> None:
    """Set sigma where it is one number; a map travels as an array."""
    if isinstance(sigma, float):
        request.sigma = sigma
