"""What one side puts into a message, the other reads out of it; options have one name everywhere."""

import inspect
from dataclasses import asdict, fields

import numpy as np
import pytest

from lemmse.client import Client, Result
from lemmse.client import results as client_results
from lemmse.client.arguments import Options
from lemmse.client.measurement import Measurement
from lemmse.client.messages import as_contributor, as_result, reconstruct_request
from lemmse.client.reconstruct import reconstruct as command
from lemmse.contract import Incoming, attach
from lemmse.estimator import Contributor, Diagnostics, Explanation, Reconstruction, Reconstructor
from lemmse.server.messages import (
    Arguments,
    explain_response,
    reconstruct_arguments,
    reconstruct_response,
)
from lemmse.v1 import index_pb2
from lemmse.v1 import reconstruction_pb2 as pb

DEFAULTS = {
    "estimator": "le-mmse",
    "mode": "auto",
    "k": None,
    "nprobe": None,
    "accuracy_db": None,
    "budget": None,
    "maps": frozenset(),
    "error": "estimated",
    "aggregate": None,
    "bandwidth": None,
    "gaussian_share": None,
    "quality": "paper",
}
IMAGE = np.zeros((2, 3), np.float32)
DIAGNOSTICS = Diagnostics(
    mode="hybrid",
    index="photos",
    version="3",
    keys=1000,
    keys_touched=12.5,
    seconds=0.25,
    expected_accuracy_db=48.5,
    certified=0.75,
    aggregate="overlap",
    bandwidth=0.05,
    gaussian_share=0.25,
)


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
def test_what_is_asked_arrives(changes):
    measurement = Measurement.checked(IMAGE, sigma=0.1, mask=None)
    request = reconstruct_request(measurement, Options.checked(index=None, **DEFAULTS | changes))
    received = pb.ReconstructRequest.FromString(request.SerializeToString())
    assert reconstruct_arguments(received) == DEFAULTS | changes


def test_what_a_request_does_not_say_has_its_default():
    assert reconstruct_arguments(pb.ReconstructRequest()) == DEFAULTS


def answer(diagnostics: Diagnostics) -> Result:
    """What a client makes of a server's answer."""
    sent = Reconstruction(
        IMAGE, variance=None, ess=None, log_density=None, error=None, diagnostics=diagnostics
    )
    message = attach(*reconstruct_response(sent))
    return as_result(Incoming(pb.ReconstructResponse.FromString(message.SerializeToString())))


def test_diagnostics_come_back():
    assert asdict(answer(DIAGNOSTICS).diagnostics) == asdict(DIAGNOSTICS)


def test_a_server_that_knows_of_no_aggregate_has_the_centre():
    message = attach(pb.ReconstructResponse(diagnostics=pb.Diagnostics(mode=pb.MODE_EXACT)), {"image": IMAGE})
    diagnostics = as_result(Incoming(message)).diagnostics
    assert (diagnostics.aggregate, diagnostics.bandwidth, diagnostics.gaussian_share) == ("centre", 0, 0)


def test_contributors_come_back():
    contributors = (
        Contributor(3, "a.png", 1, 2, 0.75, (0.25, 0.5, 1.0), "identity"),
        Contributor(0, "b.png", 4, 0, 0.25, (0.0, 0.5, 0.125), "rotate-90"),
    )
    message = explain_response(Explanation(contributors, DIAGNOSTICS))
    received = pb.ExplainResponse.FromString(message.SerializeToString())
    assert [asdict(as_contributor(c)) for c in received.contributors] == [asdict(c) for c in contributors]


def options_of(function) -> dict[str, object]:
    """The keyword-only options of a function and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize("function", [Reconstructor.reconstruct, Client.reconstruct, Client.reconstruct_many])
def test_options_are_the_same_everywhere(function):
    others = {"sigma", "mask", "index", "timeout", "cancelled"}
    found = {name: default for name, default in options_of(function).items() if name not in others}
    assert found == DEFAULTS | {"maps": ()}
    assert Arguments.__annotations__.keys() == DEFAULTS.keys()
    assert {field.name for field in fields(Options)} == {"index", *DEFAULTS}


def test_the_command_has_the_same_options():
    context = command.make_context("reconstruct", ["y.png", "--out", "x.png", "--sigma", "0.1"])
    assert {name: context.params[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("kind", [Contributor, Diagnostics])
def test_answers_have_the_same_fields_everywhere(kind):
    message = getattr(pb, kind.__name__).DESCRIPTOR
    names = {field.name for field in fields(kind)}
    assert names == {field.name for field in fields(getattr(client_results, kind.__name__))}
    assert names == set(message.fields_by_name)


def test_an_index_is_described_by_every_field_of_its_message():
    names = {field.name for field in fields(client_results.IndexInfo)}
    assert names == set(index_pb2.Index.DESCRIPTOR.fields_by_name)
