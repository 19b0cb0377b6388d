"""Overlap aggregation, bandwidth and a share of Gaussians: the posterior of their models, in every mode."""

import numpy as np
import pytest

from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from lemmse.index.errors import InvalidArgument
from tests.estimator.cases import CASES, Case, smooth
from tests.oracle import agreement
from tests.quality_oracle import quality_oracle

SIGMAS = (0.01, 0.1, 0.5)
MODES = {
    "exact": {"mode": "exact"},
    "topk of all": {"mode": "topk", "k": 10**6},
    "hybrid": {"mode": "hybrid", "accuracy_db": 120},
}
MAPS = ("variance", "ess", "log_density")
SETTINGS = {
    "overlap": {"aggregate": "overlap"},
    "bandwidth": {"bandwidth": 0.05},
    "both": {"aggregate": "overlap", "bandwidth": 0.05},
    "share": {"gaussian_share": 0.3},
    "Gaussians only": {"gaussian_share": 1.0, "bandwidth": 0.05},
    "all three": {"aggregate": "overlap", "bandwidth": 0.05, "gaussian_share": 0.3},
}


def index_of(folder, training, **options) -> Reconstructor:
    sources = []
    for i, x in enumerate(training):
        sources.append(folder / f"{i}.npy")
        np.save(sources[-1], x[None])
    return Reconstructor(open_index(build(sources, folder / "index", **options)), device="cpu")


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def reconstructor(case, tmp_path_factory) -> Reconstructor:
    return index_of(tmp_path_factory.mktemp("case"), case.training, patch_size=case.p)


@pytest.fixture(scope="module")
def expected(case, reconstructor):
    known = {}

    def of(sigma, **setting):
        key = sigma, *sorted(setting.items())
        if key not in known:
            y = case.measurement(sigma).astype(np.float64)
            s, mixture = np.full(y.shape, sigma), reconstructor.index.mixture
            known[key] = quality_oracle(case.training, y, s, case.p, mixture=mixture, **setting)
        return known[key]

    return of


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_mean_is_that_of_the_model(case, reconstructor, expected, options, setting, sigma):
    result = reconstructor.reconstruct(case.measurement(sigma), sigma=sigma, **setting, **options)
    assert result.diagnostics.mode == options["mode"]
    assert agreement(result.image, expected(sigma, **setting).image) >= 80


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_maps_are_those_of_the_model(case, reconstructor, expected, options, setting, sigma):
    y = case.measurement(sigma)
    result = reconstructor.reconstruct(y, sigma=sigma, maps=MAPS, **setting, **options)
    oracle = expected(sigma, **setting)
    slack = 1e-5 + 2e-7 / sigma**2
    atol = 1e-6 if options["mode"] != "hybrid" else 2e-5
    np.testing.assert_allclose(result.variance, oracle.variance, rtol=10 * slack, atol=atol)
    np.testing.assert_allclose(result.ess, oracle.ess, rtol=10 * slack)
    np.testing.assert_allclose(result.log_density, oracle.log_density, rtol=1e-5, atol=10 * slack)


OFFSET = {"centre": {}} | SETTINGS


@pytest.mark.parametrize("setting", OFFSET.values(), ids=OFFSET)
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize("p", [3, 4])
def test_offset_is_the_model_of_all_levels(tmp_path, p, options, setting):
    training = [smooth(seed, 6, 6, 3) for seed in range(3)]
    y = smooth(71, 5, 4, 3)
    reconstructor = index_of(tmp_path, training, patch_size=p, equivariance="offset")
    for sigma in SIGMAS:
        s = np.full(y.shape, sigma)
        mixture = reconstructor.index.mixture
        oracle = quality_oracle(
            training, y.astype(np.float64), s, p, equivariance="offset", mixture=mixture, **setting
        )
        result = reconstructor.reconstruct(y, sigma=sigma, maps=MAPS, **setting, **options)
        assert agreement(result.image, oracle.image) >= 80
        slack = 1e-5 + 2e-7 / sigma**2
        np.testing.assert_allclose(result.variance, oracle.variance, rtol=10 * slack, atol=2e-5)
        np.testing.assert_allclose(result.ess, oracle.ess, rtol=10 * slack)
        np.testing.assert_allclose(result.log_density, oracle.log_density, rtol=1e-5, atol=10 * slack)


@pytest.mark.parametrize("setting", OFFSET.values(), ids=OFFSET)
@pytest.mark.parametrize("mode", ["exact", "topk", "hybrid"])
def test_a_constant_added_to_y_is_added_to_the_result(tmp_path, mode, setting):
    reconstructor = index_of(
        tmp_path, [smooth(k, 8, 8, 3) for k in range(3)], patch_size=3, equivariance="offset"
    )
    y, constant = smooth(72, 6, 6, 3), np.array([0.5, -0.25, 2.0], np.float32)
    plain, moved = (
        reconstructor.reconstruct(x, sigma=0.1, mode=mode, **setting).image for x in (y, y + constant)
    )
    np.testing.assert_allclose(moved, plain + constant, atol=1e-5)


@pytest.mark.parametrize("pre_inverse", ["identity", "wiener:0.1"])
def test_a_constant_added_to_a_blurred_y_is_added_to_the_result(tmp_path, pre_inverse):
    training = [smooth(k, 8, 8, 1) for k in range(3)]
    options = {"physics": "blur:gaussian:0.6", "pre_inverse": pre_inverse, "patch_size": 3}
    reconstructor = index_of(tmp_path, training, equivariance="offset", **options)
    y = smooth(73, 8, 8, 1)
    plain, moved = (reconstructor.reconstruct(x, sigma=0.1).image for x in (y, y + np.float32(0.5)))
    np.testing.assert_allclose(moved, plain + 0.5, atol=1e-5)


@pytest.mark.parametrize("argument", ["mask", "sigma"])
def test_offset_takes_one_sigma_and_no_mask(tmp_path, argument):
    y = smooth(1, 6, 6, 1)
    reconstructor = index_of(tmp_path, [y], patch_size=3, equivariance="offset")
    asked = {"mask": y > 0.5, "sigma": 0.1} if argument == "mask" else {"sigma": np.full(y.shape, 0.1)}
    with pytest.raises(InvalidArgument, match="needs an index of equivariance none, got offset") as error:
        reconstructor.reconstruct(y, **asked)
    assert error.value.argument == argument


def request_kind(kind: str, shape, sigma):
    """A mask or a noise map, as keyword arguments and as the standard deviation of each pixel."""
    rng = np.random.default_rng(11)
    if kind == "noise map":
        s = sigma * rng.uniform(0.5, 2, shape)
        return {"sigma": s}, s
    mask = rng.random(shape) < 0.6
    return {"sigma": sigma, "mask": mask}, np.where(mask, sigma, np.inf)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("mode", ["exact", "hybrid", "auto"])
@pytest.mark.parametrize("kind", ["mask", "noise map"])
def test_masks_and_noise_maps(tmp_path, kind, mode, setting):
    training = [smooth(seed, 6, 6, 3) for seed in range(3)]
    y = smooth(70, 5, 5, 3)
    asked, s = request_kind(kind, y.shape, 0.1)
    reconstructor = index_of(tmp_path, training, patch_size=3)
    mixture = reconstructor.index.mixture
    oracle = quality_oracle(training, y.astype(np.float64), s, 3, mixture=mixture, **setting)
    result = reconstructor.reconstruct(y, **asked, mode=mode, accuracy_db=120, maps=MAPS, **setting)
    assert agreement(result.image, oracle.image) >= 80
    if result.diagnostics.mode == "exact":
        np.testing.assert_allclose(result.variance, oracle.variance, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(result.ess, oracle.ess, rtol=1e-3)
        np.testing.assert_allclose(result.log_density, oracle.log_density, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("boundary", ["circular", "reflect"])
def test_overlap_tells_the_squared_error_to_expect(tmp_path, boundary):
    """Of images drawn from the training set the variance map is, in the mean, the squared error made."""
    rng = np.random.default_rng(5)
    training = [smooth(seed, 8, 8, 1) for seed in range(6)]
    reconstructor = index_of(tmp_path, training, patch_size=3, boundary=boundary)
    for sigma in (0.1, 0.3):
        squared, told = [], []
        for _ in range(60):
            x = training[rng.integers(len(training))]
            y = (x + sigma * rng.standard_normal(x.shape)).astype(np.float32)
            result = reconstructor.reconstruct(y, sigma=sigma, aggregate="overlap", maps=("variance",))
            squared.append(np.square(result.image - x).mean())
            told.append(result.variance.mean())
        spread = np.std(squared) / np.sqrt(len(squared))
        assert np.mean(told) == pytest.approx(np.mean(squared), abs=4 * spread + 0.05 * np.mean(squared))


@pytest.mark.parametrize(
    "asked", [{"aggregate": "overlap"}, {"bandwidth": 0.1}], ids=["aggregate", "bandwidth"]
)
@pytest.mark.parametrize("problem", [("blur:gaussian:0.6", "identity"), ("inpaint:center:2", "mask")])
def test_other_problems_refuse(tmp_path, problem, asked):
    training = [smooth(seed, 6, 6, 1) for seed in range(2)]
    physics, pre_inverse = problem
    reconstructor = index_of(tmp_path, training, patch_size=3, physics=physics, pre_inverse=pre_inverse)
    with pytest.raises(
        InvalidArgument, match="needs an index of physics identity and pre-inverse identity"
    ) as e:
        reconstructor.reconstruct(training[0], sigma=0.1, **asked)
    assert e.value.argument == next(iter(asked))


@pytest.mark.parametrize("estimator", ["mmse", "e-mmse"])
@pytest.mark.parametrize("asked", [{"aggregate": "overlap"}, {"bandwidth": 0.1}])
def test_whole_images_have_no_patches(reconstructor, case, estimator, asked):
    with pytest.raises(InvalidArgument, match=f"expected none for {estimator}"):
        reconstructor.reconstruct(case.measurement(0.1), sigma=0.1, estimator=estimator, **asked)


@pytest.mark.parametrize("bandwidth", [-0.1, float("nan"), 1e7, "wide"])
def test_a_bandwidth_is_a_standard_deviation(reconstructor, case, bandwidth):
    with pytest.raises(InvalidArgument, match="expected a number"):
        reconstructor.reconstruct(case.measurement(0.1), sigma=0.1, bandwidth=bandwidth)


def test_an_aggregate_has_a_name(reconstructor, case):
    with pytest.raises(InvalidArgument, match="expected one of centre, overlap, got 'mean'"):
        reconstructor.reconstruct(case.measurement(0.1), sigma=0.1, aggregate="mean")
