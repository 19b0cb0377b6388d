"""The closed loop of hybrid: the image at hand is as accurate as requested, whatever was expected."""

from dataclasses import replace

import numpy as np
import pytest

from lemmse.calibration import calibrate
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.oracle import agreement

SIGMA = 0.2


def image(seed: int) -> np.ndarray:
    clean = smooth(seed, 24, 24, 3)
    return clean + SIGMA * np.random.default_rng(seed).standard_normal(clean.shape)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    np.save(folder / "images.npy", np.stack([smooth(k, 24, 24, 3) for k in range(12)]))
    index = open_index(build([folder / "images.npy"], folder / "index", patch_size=3))
    curve = calibrate(index, sigmas=[SIGMA])
    return replace(index, manifest=replace(index.manifest, calibration=curve))


def with_curve(index, **tables) -> Reconstructor:
    """An index whose calibration has other tables."""
    curve = replace(index.manifest.calibration, **tables)
    return Reconstructor(replace(index, manifest=replace(index.manifest, calibration=curve)), device="cpu")


def repeated(index, value: float):
    return (tuple(value for _ in index.manifest.calibration.thresholds),)


@pytest.fixture(scope="module")
def boastful(index):
    """A calibration that promises everything of the least work."""
    return with_curve(index, accuracy_db=repeated(index, 120.0))


@pytest.mark.parametrize("accuracy_db", [40, 50, 60])
@pytest.mark.parametrize("seed", [500, 501, 502])
def test_an_image_is_as_accurate_as_requested_where_the_curve_is_wrong(boastful, seed, accuracy_db):
    y = image(seed)
    exact = boastful.reconstruct(y, sigma=SIGMA, mode="exact").image
    result = boastful.reconstruct(y, sigma=SIGMA, mode="hybrid", accuracy_db=accuracy_db)
    assert result.diagnostics.estimated_accuracy_db >= accuracy_db + 2
    assert agreement(result.image, exact) >= accuracy_db - 0.5


def test_sums_over_gaussians_are_the_same_if_they_are_kept(boastful, monkeypatch):
    asked = {"sigma": SIGMA, "mode": "hybrid", "gaussian_share": 0.3, "aggregate": "overlap"}
    y, maps = image(500), ["error"]
    once = boastful.reconstruct(y, accuracy_db=1, **asked)
    kept = boastful.reconstruct(y, accuracy_db=60, maps=maps, **asked)
    assert kept.diagnostics.keys_touched > once.diagnostics.keys_touched  # some patches were summed again
    monkeypatch.setattr("lemmse.estimator.image_queries.whitened._GaussianSums.has", lambda sums, n: False)
    fresh = boastful.reconstruct(y, accuracy_db=60, maps=maps, **asked)
    np.testing.assert_allclose(kept.image, fresh.image, atol=1e-5)
    np.testing.assert_allclose(kept.error, fresh.error, atol=1e-5)


def test_more_accuracy_is_more_keys_from_the_same_start(boastful):
    y = image(500)
    touched = [
        boastful.reconstruct(y, sigma=SIGMA, mode="hybrid", accuracy_db=db).diagnostics.keys_touched
        for db in (20, 40, 60)
    ]
    assert touched[0] < touched[1] < touched[2]


def test_patches_that_nothing_else_helps_are_summed_exactly(index):
    doubtful = with_curve(index, rms_scale=repeated(index, 1e9))
    y = image(500)
    exact = doubtful.reconstruct(y, sigma=SIGMA, mode="exact").image
    result = doubtful.reconstruct(y, sigma=SIGMA, mode="hybrid", maps=["error"])
    assert result.diagnostics.estimated_accuracy_db == pytest.approx(100, abs=1e-6)
    assert agreement(result.image, exact) >= 90
    assert result.diagnostics.keys_touched >= index.manifest.distinct
    assert result.error.max() <= 1.1e-5


@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
def test_the_estimate_is_near_the_agreement(index, aggregate):
    reconstructor = Reconstructor(index, device="cpu")
    for seed in (510, 511, 512):
        y = image(seed)
        exact = reconstructor.reconstruct(y, sigma=SIGMA, mode="exact", aggregate=aggregate).image
        result = reconstructor.reconstruct(y, sigma=SIGMA, mode="hybrid", accuracy_db=40, aggregate=aggregate)
        estimated = result.diagnostics.estimated_accuracy_db
        assert agreement(result.image, exact) >= estimated - 4
        if aggregate == "centre":
            assert agreement(result.image, exact) <= estimated + 12


@pytest.mark.parametrize("asked", ["exact", "budget", "mask", "uncalibrated"])
def test_without_a_goal_there_is_no_estimate(index, asked):
    y, options = image(500), {"mode": "hybrid"}
    if asked == "exact":
        options = {"mode": "exact"}
    elif asked == "budget":
        options["budget"] = 200
    elif asked == "mask":
        options["mask"] = np.random.default_rng(0).random(y.shape[:2]) < 0.7
    if asked == "uncalibrated":
        index = replace(index, manifest=replace(index.manifest, calibration=None))
    result = Reconstructor(index, device="cpu").reconstruct(y, sigma=SIGMA, **options)
    assert result.diagnostics.estimated_accuracy_db is None
