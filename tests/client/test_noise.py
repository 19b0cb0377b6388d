"""Noise that is estimated, and NaN that was not observed: by clients, the batch, the command, the wire."""

import json

import grpc
import numpy as np
import pytest

from lemmse.client import NoiseEstimate, connect
from lemmse.client.crop import middle
from lemmse.client.errors import FailedPrecondition, InvalidArgument
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from tests.support.commands import invoke
from tests.support.requests import request

Y = np.random.default_rng(3).random((9, 8))
HOLES = np.where(np.arange(8) == 4, np.nan, Y)


@pytest.fixture(scope="module")
def expected(embedded) -> NoiseEstimate:
    return embedded.estimate_noise(Y)


@pytest.fixture(params=["remote", "embedded"])
def where(request, server, tiny_index):
    return ["--server", server.address] if request.param == "remote" else ["--index", str(tiny_index)]


def test_an_estimate(client, expected):
    assert client.estimate_noise(Y) == client.estimate_noise(Y, index="tiny") == expected
    assert len(expected.sigma) == len(expected.sigma_error) == 1
    assert 0 < expected.sigma_error[0] < expected.sigma[0] < 1


def test_an_answer_with_the_estimate(client, expected):
    result = client.reconstruct(Y, sigma="auto", maps=["variance"])
    assert (result.diagnostics.sigma, result.diagnostics.sigma_error) == (
        expected.sigma,
        expected.sigma_error,
    )
    told = client.reconstruct(Y, sigma=expected.sigma[0], maps=["variance"])
    np.testing.assert_array_equal(result.image, told.image)
    assert result.diagnostics.misfit == told.diagnostics.misfit
    assert told.diagnostics.sigma == ()
    contributors = client.explain(Y, sigma="auto", pixel=(2, 3), top=3)
    assert contributors == client.explain(Y, sigma=expected.sigma[0], pixel=(2, 3), top=3)


def test_a_derivative_at_the_estimate(client, expected):
    vector = np.random.default_rng(6).standard_normal(Y.shape)
    found = client.vjp(Y, sigma="auto", vector=vector)
    np.testing.assert_array_equal(found, client.vjp(Y, sigma=expected.sigma[0], vector=vector))
    holes = client.vjp(HOLES, sigma=0.2, vector=vector, nan="mask")
    assert (holes[np.isnan(HOLES)] == 0).all()
    np.testing.assert_array_equal(holes, client.vjp(Y, sigma=0.2, vector=vector, mask=np.isfinite(HOLES)))


def test_an_image_in_tiles(client, expected):
    for y, options in ((Y, {"sigma": "auto"}), (HOLES, {"sigma": expected.sigma[0], "nan": "mask"})):
        out = np.empty(Y.shape, np.float32)
        tiled = client.reconstruct(y, out=out, maps=["variance"], **options)
        whole = client.reconstruct(y, maps=["variance"], **options)
        np.testing.assert_array_equal(out, whole.image)
        np.testing.assert_array_equal(tiled.variance, whole.variance)
        for name in ("sigma", "sigma_error"):
            assert getattr(tiled.diagnostics, name) == getattr(whole.diagnostics, name)
        assert tiled.diagnostics.misfit == pytest.approx(whole.diagnostics.misfit)
        if "nan" in options:  # the error of an estimate is not known to tiles
            assert tiled.diagnostics.expected_psnr_db == pytest.approx(whole.diagnostics.expected_psnr_db)


def test_a_batch_with_an_estimate_for_each(client):
    images = [Y, 0.5 + 0.1 * Y, np.zeros((2, 2)), Y]
    first, flat, small, last = client.reconstruct_many(images, sigma=["auto", "auto", "auto", 0.2])
    assert first.diagnostics.sigma[0] > 2 * flat.diagnostics.sigma[0]
    assert isinstance(small, InvalidArgument)
    assert last.diagnostics.sigma == ()
    again, *_ = client.reconstruct_many(images, sigma="auto")
    np.testing.assert_array_equal(again.image, first.image)


def test_nan_is_not_observed_where_the_user_says_so(client):
    mask = np.isfinite(HOLES)
    found = client.reconstruct(HOLES, sigma=0.1, nan="mask")
    np.testing.assert_array_equal(found.image, client.reconstruct(Y, sigma=0.1, mask=mask).image)
    (many,) = client.reconstruct_many([HOLES], sigma=0.1, nan="mask")
    np.testing.assert_array_equal(many.image, found.image)
    both = client.reconstruct(HOLES, sigma=0.1, nan="mask", mask=Y > 0.1)
    np.testing.assert_array_equal(both.image, client.reconstruct(Y, sigma=0.1, mask=mask & (Y > 0.1)).image)
    assert client.estimate_noise(HOLES, nan="mask") == client.estimate_noise(Y, mask=mask)
    one = client.explain(HOLES, sigma=0.1, nan="mask", pixel=(2, 3), top=2)
    assert one == client.explain(Y, sigma=0.1, mask=mask, pixel=(2, 3), top=2)
    for asked in ({}, {"nan": "error"}):
        with pytest.raises(InvalidArgument, match="y: expected finite numbers, got nan"):
            client.reconstruct(HOLES, sigma=0.1, **asked)
    without = client.reconstruct(Y, sigma=0.1, nan="mask")  # no mask is made where there is no NaN
    np.testing.assert_array_equal(without.image, client.reconstruct(Y, sigma=0.1).image)


@pytest.mark.parametrize("nan", ["skip", None, 0])
def test_nan_means_one_of_two(client, nan):
    with pytest.raises(InvalidArgument, match="nan: expected one of error, mask, got"):
        client.reconstruct(Y, sigma=0.1, nan=nan)


def test_infinity_is_a_mistake(client):
    with pytest.raises(InvalidArgument, match="y: expected finite numbers, got inf"):
        client.reconstruct(np.where(Y > 0.9, np.inf, Y), sigma=0.1, nan="mask")


def test_a_closed_client(connect_any, tiny_index):
    client = connect_any(tiny_index)
    client.close()
    with pytest.raises(FailedPrecondition, match="the client is closed"):
        client.estimate_noise(Y)


def test_of_an_image_too_large_for_a_message_the_middle_is_sent(remote, embedded):
    large = np.random.default_rng(4).random((1200, 1000))
    measurement = middle(Measurement.checked(large, sigma="auto", mask=None), INLINE_BYTES)
    assert 0.9 * INLINE_BYTES < measurement.nbytes <= INLINE_BYTES
    found = remote.estimate_noise(large)
    assert found == embedded.estimate_noise(measurement.y)
    contributors = remote.explain(large, sigma="auto", pixel=(600, 500), top=1)
    assert contributors == remote.explain(large, sigma=found.sigma[0], pixel=(600, 500), top=1)


def test_the_wire(server):
    with grpc.insecure_channel(str(server.address)) as channel:
        stub = ReconstructionServiceStub(channel)
        y = request().y
        with pytest.raises(grpc.RpcError) as error:
            stub.EstimateNoise(pb.EstimateNoiseRequest(y=y))
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "an image smaller than a patch, 3x3, got auto for 2x2" in error.value.details()
        with pytest.raises(grpc.RpcError) as error:
            stub.EstimateNoise(pb.EstimateNoiseRequest())
        assert "y: expected a tensor, got none" in error.value.details()
        bare = pb.ReconstructRequest(y=y)
        with pytest.raises(grpc.RpcError) as error:
            stub.Reconstruct(bare)
        assert "sigma: expected sigma, sigma_map, auto or poisson_gaussian, got none" in error.value.details()
        bare.auto.SetInParent()
        with pytest.raises(grpc.RpcError) as error:
            stub.Reconstruct(bare)
        assert "an image smaller than a patch" in error.value.details()


def test_the_command_estimates_by_default(tmp_path, where, embedded):
    np.save(tmp_path / "y.npy", Y)
    arguments = [tmp_path / "y.npy", "--out", tmp_path / "x.npy", "--json", *where]
    status, stdout, _ = invoke("reconstruct", *arguments)
    assert status == 0
    told, expected = json.loads(stdout), embedded.reconstruct(Y, sigma="auto")
    assert told["sigma"] == list(expected.diagnostics.sigma)
    assert told["expected_psnr_db"] == expected.diagnostics.expected_psnr_db
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected.image, atol=1e-6)
    assert invoke("reconstruct", *arguments, "--overwrite", "--sigma", "auto")[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected.image, atol=1e-6)


def test_the_command_takes_nan(tmp_path, where, embedded):
    np.save(tmp_path / "y.npy", HOLES)
    arguments = ["reconstruct", tmp_path / "y.npy", "--sigma", 0.1, "--out", tmp_path / "x.npy", *where]
    status, _, stderr = invoke(*arguments)
    assert status == 2
    assert stderr.startswith(f"lemmse: error: {tmp_path / 'y.npy'}: y: expected finite numbers, got nan")
    assert invoke(*arguments, "--nan", "mask")[0] == 0
    expected = embedded.reconstruct(HOLES, sigma=0.1, nan="mask")
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected.image, atol=1e-6)


def test_the_command_that_estimates(tmp_path, where, embedded):
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "stack.npy", np.stack([Y, 0.5 * Y]))
    np.save(tmp_path / "holes.npy", HOLES)
    (sigma,), (error,) = (embedded.estimate_noise(Y).sigma, embedded.estimate_noise(Y).sigma_error)
    status, stdout, stderr = invoke("estimate-noise", tmp_path / "y.npy", *where)
    assert (status, stdout, stderr) == (0, f"{tmp_path / 'y.npy'}: {sigma:.4g} ± {error:.1g}\n", "")
    status, stdout, _ = invoke("estimate-noise", tmp_path / "stack.npy", "--axes", "TYX", "--json", *where)
    first, second = map(json.loads, stdout.splitlines())
    assert first == {
        "input": str(tmp_path / "stack.npy"),
        "plane": 0,
        "sigma": [sigma],
        "sigma_error": [error],
        "gain": None,
        "gain_error": None,
    }
    assert second["plane"] == 1
    status, stdout, stderr = invoke("estimate-noise", tmp_path / "holes.npy", tmp_path / "y.npy", *where)
    assert (status, len(stdout.splitlines())) == (1, 1)
    assert "holes.npy: y: expected finite numbers, got nan" in stderr
    assert invoke("estimate-noise", tmp_path / "holes.npy", "--nan", "mask", *where)[0] == 0
    status, _, stderr = invoke("estimate-noise", tmp_path / "none.npy", *where)
    assert (status, stderr.count("\n")) == (2, 1)


def test_the_command_needs_an_index():
    status, _, stderr = invoke("estimate-noise", "y.npy")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "expected either --server or --index, got neither" in stderr


def test_another_word_is_refused(tiny_index):
    with (
        connect(tiny_index) as client,
        pytest.raises(InvalidArgument, match="a map or auto, got 'automatic'"),
    ):
        client.reconstruct(Y, sigma="automatic")
