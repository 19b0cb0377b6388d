"""What one side writes into a message, the other reads from it."""

from dataclasses import fields, replace

import numpy as np
import pytest

from lemmse.contract.chunks import Incoming, attach
from lemmse.contract.errors import MalformedMessage
from lemmse.contract.measurement import Measurement
from lemmse.contract.messages import (
    differentiate_request,
    differentiate_response,
    explain_request,
    explain_response,
    index_message,
    read_differentiate_options,
    read_explain_options,
    read_explanation,
    read_index,
    read_measurement,
    read_options,
    read_product,
    read_result,
    read_vector,
    reconstruct_request,
    reconstruct_response,
)
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, Diagnostics, Explanation, IndexInfo, Result
from lemmse.v1 import index_pb2
from lemmse.v1 import reconstruction_pb2 as pb

IMAGE = np.arange(6, dtype=np.float32).reshape(2, 3)
DIAGNOSTICS = Diagnostics(
    mode="hybrid",
    index="photos",
    version="3",
    keys=1000,
    keys_touched=12.5,
    seconds=0.25,
    expected_accuracy_db=48.5,
    estimated_accuracy_db=51.25,
    certified=0.75,
    aggregate="overlap",
    bandwidth=0.05,
    gaussian_share=0.25,
)


def sent(message):
    """A message as the other side parses it."""
    return type(message).FromString(message.SerializeToString())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"estimator": "e-mmse", "mode": "exact"},
        {"mode": "topk", "k": 5, "nprobe": 2},
        {"mode": "hybrid", "accuracy_db": 60.0, "budget": 7, "error": "certified"},
        {"maps": frozenset(["ess", "error"])},
        {"aggregate": "centre", "bandwidth": 0.0},
        {"aggregate": "overlap", "bandwidth": 0.05, "gaussian_share": 0.5},
        {"gaussian_share": 0.0},
        {"quality": "best"},
        {"quality": "best", "aggregate": "centre"},
    ],
)
def test_options_arrive(changes):
    measurement = Measurement.checked(IMAGE, sigma=0.1, mask=None)
    options = Options(**changes)
    assert read_options(sent(reconstruct_request("photos", measurement, options))) == options


def test_an_empty_request_has_the_defaults():
    assert read_options(pb.ReconstructRequest()) == Options()


@pytest.mark.parametrize("field", ["estimator", "mode", "error", "aggregate", "quality"])
def test_an_unknown_number_is_refused(field):
    with pytest.raises(MalformedMessage, match=rf"^{field}: expected one of .*, got 99"):
        read_options(pb.ReconstructRequest(**{field: 99}))


def test_an_unknown_map_is_refused():
    with pytest.raises(MalformedMessage, match=r"^maps: expected one of variance, .*, got 9"):
        read_options(pb.ReconstructRequest(maps=[1, 9]))


@pytest.mark.parametrize("sigma", [0.25, np.full((2, 3), 0.5, np.float32)])
@pytest.mark.parametrize("mask", [None, np.array([[0, 1, 1], [1, 1, 0]])])
def test_measurements_arrive(sigma, mask):
    measurement = Measurement.checked(IMAGE, sigma=sigma, mask=mask)
    request = attach(reconstruct_request("", measurement, Options()), measurement.arrays)
    received = read_measurement(Incoming(sent(request)))
    np.testing.assert_array_equal(received.y, IMAGE)
    np.testing.assert_array_equal(received.sigma, sigma)
    assert (received.mask is None) == (mask is None)
    if mask is not None:
        np.testing.assert_array_equal(received.mask, mask != 0)


def test_explain_options_arrive():
    measurement = Measurement.checked(IMAGE, sigma=0.25, mask=None)
    for context in (None, 0, 3):
        options = ExplainOptions(pixel=(1, 2), top=7, context=context)
        request = sent(explain_request("photos", measurement, options))
        assert (request.index, request.sigma) == ("photos", 0.25)
        assert read_explain_options(request, measurement) == options


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quality": "best"},
        {"aggregate": "overlap", "bandwidth": 0.05, "gaussian_share": 0.0},
        {"exclude": ["a.png", 3]},
    ],
)
def test_what_to_differentiate_arrives(changes):
    measurement = Measurement.checked(IMAGE, sigma=0.25, mask=np.ones(IMAGE.shape))
    options, vector = Options(**changes), 2 * IMAGE
    request = differentiate_request("photos", measurement, options)
    incoming = Incoming(sent(attach(request, {**measurement.arrays, "vector": vector})))
    assert incoming.message.index == "photos"
    assert read_differentiate_options(incoming.message) == options
    received = read_measurement(incoming)
    np.testing.assert_array_equal(received.y, IMAGE)
    assert received.mask is not None
    np.testing.assert_array_equal(read_vector(incoming, received), vector)
    np.testing.assert_array_equal(read_product(sent(differentiate_response(IMAGE))), IMAGE)


def test_fields_of_what_is_differentiated_have_the_numbers_of_what_is_reconstructed():
    numbers, others = (
        {field.name: field.number for field in message.DESCRIPTOR.fields}
        for message in (pb.DifferentiateRequest, pb.ReconstructRequest)
    )
    assert numbers.pop("vector") not in others.values()
    assert numbers.items() <= others.items()


def test_without_a_vector_or_a_product():
    request = attach(pb.DifferentiateRequest(sigma=0.1), {"y": IMAGE})
    incoming = Incoming(sent(request))
    with pytest.raises(MalformedMessage, match=r"^vector: expected a tensor, got none"):
        read_vector(incoming, read_measurement(incoming))
    with pytest.raises(MalformedMessage, match=r"^product: expected a tensor, got none"):
        read_product(pb.DifferentiateResponse())


@pytest.mark.parametrize("maps", [(), ("variance",), ("variance", "ess", "log_density", "error")])
def test_results_come_back(maps):
    arrays = {name: IMAGE + number for number, name in enumerate(maps, 1)}
    result = Result(image=IMAGE, diagnostics=DIAGNOSTICS, **arrays)
    received = read_result(Incoming(sent(attach(*reconstruct_response(result)))))
    assert received.diagnostics == DIAGNOSTICS
    assert received.arrays.keys() == {"image", *maps}
    for name, array in result.arrays.items():
        np.testing.assert_array_equal(received.arrays[name], array)


def test_a_server_that_sends_no_aggregate_has_the_centre():
    message = attach(pb.ReconstructResponse(diagnostics=pb.Diagnostics(mode=pb.MODE_EXACT)), {"image": IMAGE})
    diagnostics = read_result(Incoming(message)).diagnostics
    assert (diagnostics.aggregate, diagnostics.bandwidth, diagnostics.gaussian_share) == ("centre", 0, 0)
    assert (diagnostics.expected_accuracy_db, diagnostics.certified) == (None, None)


def test_explanations_come_back():
    contributors = (
        Contributor(3, "a.png", 1, 2, 0.75, (0.25, 0.5, 1.0), "identity"),
        Contributor(0, "b.png", 4, 0, 0.25, (0.0, 0.5, 0.125), "rotate-90"),
    )
    explanation = Explanation(contributors, DIAGNOSTICS)
    assert read_explanation(sent(explain_response(explanation))) == explanation


def test_crops_come_back():
    crop = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    contributor = Contributor(3, "a.png", 1, 2, 0.75, (0.25,), "identity", crop)
    explanation = Explanation((contributor, replace(contributor, crop=None)), DIAGNOSTICS)
    with_crop, without = read_explanation(sent(explain_response(explanation))).contributors
    np.testing.assert_array_equal(with_crop.crop, crop)
    assert without.crop is None


def test_descriptions_of_indexes_come_back():
    values = {
        f.name: number if f.type == "int" or f.type is int else f.name
        for number, f in enumerate(fields(IndexInfo))
    }
    info = IndexInfo(**values)
    assert read_index(sent(index_message(info))) == info


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Contributor, pb.Contributor), (Diagnostics, pb.Diagnostics), (IndexInfo, index_pb2.Index)],
)
def test_results_have_the_fields_of_their_messages(kind, message):
    assert {field.name for field in fields(kind)} == set(message.DESCRIPTOR.fields_by_name)
