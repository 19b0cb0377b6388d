"""Poisson-Gaussian noise, and numbers with an offset: by clients, the batch, the command, the wire."""

import json

import numpy as np
import pytest

from lemmse.client.errors import InvalidArgument
from lemmse.contract.chunks import Incoming, attach
from lemmse.contract.measurement import Measurement
from lemmse.contract.messages import (
    differentiate_request,
    estimate_noise_request,
    explain_request,
    read_measurement,
)
from lemmse.contract.options import ExplainOptions, Options
from lemmse.v1 import reconstruction_pb2 as pb
from tests.support.commands import invoke

Y = np.random.default_rng(3).random((9, 8))
NOISE = {"noise": "poisson-gaussian"}
STATED = NOISE | {"gain": 0.02, "sigma": 0.05}


@pytest.fixture(params=["remote", "embedded"])
def where(request, server, tiny_index):
    return ["--server", server.address] if request.param == "remote" else ["--index", str(tiny_index)]


def test_an_answer(client, embedded):
    result = client.reconstruct(Y, **STATED, maps=["variance"])
    expected = embedded.reconstruct(Y, **STATED, maps=["variance"])
    np.testing.assert_array_equal(result.image, expected.image)
    np.testing.assert_array_equal(result.variance, expected.variance)
    assert np.abs(result.image - client.reconstruct(Y, sigma=0.05).image).max() > 1e-3
    assert (result.diagnostics.gain, result.diagnostics.sigma) == (None, ())
    one = client.explain(Y, **STATED, pixel=(2, 3), top=2)
    assert one == embedded.explain(Y, **STATED, pixel=(2, 3), top=2)


def test_an_estimate(client, embedded):
    found = client.estimate_noise(Y, **NOISE)
    assert found == embedded.estimate_noise(Y, **NOISE)
    assert found.gain >= found.gain_error >= 0
    assert client.estimate_noise(Y, **NOISE, sigma=0.01).sigma == (0.01,)
    assert client.estimate_noise(Y, **NOISE, gain=0.01).gain == 0.01
    diagnostics = client.reconstruct(Y, **NOISE, sigma="auto").diagnostics
    assert (diagnostics.gain, diagnostics.sigma) == (found.gain, found.sigma)
    assert client.reconstruct(Y, sigma="auto").diagnostics.gain is None
    with pytest.raises(InvalidArgument, match="sigma: expected auto for noise gaussian, got"):
        client.estimate_noise(Y, sigma=0.1)


def test_a_derivative(client, embedded):
    vector = np.random.default_rng(6).standard_normal(Y.shape)
    found = client.vjp(Y, **STATED, vector=vector)
    np.testing.assert_array_equal(found, embedded.vjp(Y, **STATED, vector=vector))
    (dark,) = client.estimate_noise(Y, **NOISE, gain=0.02).sigma
    estimated = client.vjp(Y, **STATED | {"sigma": "auto"}, vector=vector)
    np.testing.assert_array_equal(estimated, client.vjp(Y, **STATED | {"sigma": dark}, vector=vector))
    assert np.abs(found - estimated).max() > 1e-3


def test_a_batch_with_a_gain_for_each(client):
    gains = [0.02, 0.2, 0, "auto"]
    first, second, bad, last = client.reconstruct_many([Y] * 4, **NOISE, sigma=0.05, gain=gains)
    np.testing.assert_array_equal(first.image, client.reconstruct(Y, **STATED).image)
    assert np.abs(first.image - second.image).max() > 1e-3
    assert isinstance(bad, InvalidArgument)
    assert last.diagnostics.gain is not None
    with pytest.raises(InvalidArgument, match="gain: expected one for each of the 4 images, got 2"):
        list(client.reconstruct_many([Y] * 4, **NOISE, sigma=0.05, gain=[0.1, 0.2]))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_numbers_with_an_offset(client, dtype):
    numbers = np.rint(100 + 1000 * Y).astype(dtype)
    y = (numbers.astype(np.float64) - 100) / 1000
    raw = client.reconstruct(numbers, sigma=0.1, range=(100, 1100), maps=["variance"])
    plain = client.reconstruct(y, sigma=0.1, maps=["variance"])
    np.testing.assert_allclose(raw.image, 100 + 1000 * plain.image, atol=0.05)
    np.testing.assert_allclose(raw.variance, 1e6 * plain.variance, rtol=1e-3, atol=1e-2)
    (many,) = client.reconstruct_many([numbers], sigma=0.1, range=(100, 1100))
    np.testing.assert_array_equal(many.image, raw.image)
    (one, *_) = client.explain(numbers, sigma=0.1, range=(100, 1100), pixel=(2, 3), top=1)
    (other, *_) = client.explain(y, sigma=0.1, pixel=(2, 3), top=1)
    assert one.value[0] == pytest.approx(100 + 1000 * other.value[0], abs=0.01)
    assert one.weight == pytest.approx(other.weight, rel=1e-3)
    product = client.vjp(numbers, sigma=0.1, range=(100, 1100), vector=Y)
    np.testing.assert_allclose(product, client.vjp(y, sigma=0.1, vector=Y), rtol=1e-3, atol=1e-4)
    found = client.estimate_noise(numbers, range=(100, 1100)).sigma
    assert found == pytest.approx(client.estimate_noise(y).sigma, rel=1e-2)


def test_of_an_image_too_large_for_a_message_the_patch_is_explained(remote, embedded, monkeypatch):
    for module in ("remote", "unary"):
        monkeypatch.setattr(f"lemmse.client.{module}.INLINE_BYTES", 200)
    (one,) = remote.explain(Y, **STATED, pixel=(4, 4), top=1)
    answer = embedded.reconstruct(Y, **STATED).image
    info = embedded.list_indexes()[0]
    stated = Measurement.checked(Y, mask=None, **STATED)
    sigma = stated.with_noise_at(answer, info.patch_size, circular=info.boundary == "circular").sigma
    (other,) = embedded.explain(Y, sigma=sigma, pixel=(4, 4), top=1)
    assert (one.image, one.row, one.column) == (other.image, other.row, other.column)
    assert one.weight == pytest.approx(other.weight, rel=1e-5)


@pytest.mark.parametrize(("gain", "sigma"), [("auto", "auto"), (0.5, "auto"), ("auto", 0.0), (0.5, 0.25)])
def test_the_wire(gain, sigma):
    measurement = Measurement.checked(Y, mask=None, **NOISE, gain=gain, sigma=sigma)
    for request in (
        estimate_noise_request("i", measurement),
        explain_request("i", measurement, ExplainOptions(pixel=(1, 2), top=1)),
        differentiate_request("i", measurement, Options()),
    ):
        stated = request.poisson_gaussian
        assert stated.HasField("gain") == (gain != "auto")
        assert stated.HasField("sigma") == (sigma != "auto")
        found = read_measurement(Incoming(attach(request, measurement.arrays)))
        assert (found.gain, found.sigma) == (gain, sigma)
    assert pb.ReconstructRequest.DESCRIPTOR.fields_by_name["poisson_gaussian"].number == 18


def test_the_command(tmp_path, where, embedded):
    np.save(tmp_path / "y.npy", Y)
    ask = ["reconstruct", tmp_path / "y.npy", "--out", tmp_path / "x.npy", "--overwrite", "--json", *where]
    status, stdout, _ = invoke(*ask, "--noise", "poisson-gaussian")
    assert status == 0
    found = embedded.estimate_noise(Y, **NOISE)
    assert json.loads(stdout)["gain"] == found.gain
    status, *_ = invoke(*ask, "--gain", 0.02, "--sigma", 0, "--noise", "poisson-gaussian")
    assert status == 0
    expected = embedded.reconstruct(Y, **NOISE, gain=0.02, sigma=0)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected.image, atol=1e-6)
    raw = np.rint(100 + 1000 * Y).astype(np.uint16)
    np.save(tmp_path / "y.npy", raw)
    status, *_ = invoke(
        *ask, "--noise", "poisson-gaussian", "--gain", 0.02, "--sigma", 0.05, "--range", "100,1100"
    )
    assert status == 0
    expected = embedded.reconstruct(raw, **STATED, range=(100, 1100))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.rint(expected.image))
    status, stdout, _ = invoke(
        "estimate-noise", tmp_path / "y.npy", "--noise", "poisson-gaussian", "--range", "100,1100", *where
    )
    assert status == 0
    found = embedded.estimate_noise(raw, **NOISE, range=(100, 1100))
    assert stdout.endswith(f", gain {found.gain:.4g} ± {found.gain_error:.1g}\n")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gain", "0.1"], "expected --noise poisson-gaussian with it"),
        (["--noise", "poisson-gaussian", "--gain", "0"], "expected auto or a number > 0, got 0"),
        (["--noise", "poisson-gaussian", "--gain", "x"], "expected auto or a number > 0, got x"),
        (["--noise", "poisson-gaussian", "--sigma", "-1"], "expected a number >= 0, got -1"),
        (["--sigma", "0"], "expected a number > 0, got 0"),
    ],
)
def test_what_the_command_refuses(tmp_path, flags, words):
    status, _, stderr = invoke("reconstruct", "y.npy", "--out", "x.npy", "--index", tmp_path, *flags)
    assert status == 2
    assert words in stderr
