"""Overlap aggregation, bandwidth and a share of Gaussians: the posterior of their models, in every mode."""

from dataclasses import replace

import numpy as np
import pytest

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from lemmse.index.storage.picture_record import Pictures, Refinement
from tests.support.cases import CASES, Case, smooth
from tests.support.oracle import agreement
from tests.support.quality_oracle import epll_oracle, quality_oracle

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


pytestmark = pytest.mark.usefixtures("topk_is_searched")


@pytest.fixture(scope="module")
def reconstructor(case, made_once) -> Reconstructor:
    return Reconstructor(case.built(made_once), device="cpu")


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


@pytest.mark.slow
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


COLOURS = [smooth(seed, 6, 6, 3) for seed in range(3)]


@pytest.fixture(scope="module", params=[3, 4])
def offset(request, tmp_path_factory) -> Reconstructor:
    folder = tmp_path_factory.mktemp("offset")
    return index_of(folder, COLOURS, patch_size=request.param, equivariance="offset")


@pytest.fixture(scope="module", params=OFFSET.values(), ids=OFFSET)
def offset_setting(request) -> dict:
    return request.param


@pytest.fixture(scope="module")
def offset_oracles(offset, offset_setting):
    y, index = smooth(71, 5, 4, 3).astype(np.float64), offset.index
    options = {"equivariance": "offset", "mixture": index.mixture, **offset_setting}
    return {
        sigma: quality_oracle(COLOURS, y, np.full(y.shape, sigma), index.manifest.patch_size, **options)
        for sigma in SIGMAS
    }


@pytest.mark.slow
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_offset_is_the_model_of_all_levels(offset, offset_setting, offset_oracles, options):
    y = smooth(71, 5, 4, 3)
    for sigma, oracle in offset_oracles.items():
        result = offset.reconstruct(y, sigma=sigma, maps=MAPS, **offset_setting, **options)
        assert agreement(result.image, oracle.image) >= 80
        slack = 1e-5 + 2e-7 / sigma**2
        np.testing.assert_allclose(result.variance, oracle.variance, rtol=10 * slack, atol=2e-5)
        np.testing.assert_allclose(result.ess, oracle.ess, rtol=10 * slack)
        np.testing.assert_allclose(result.log_density, oracle.log_density, rtol=1e-5, atol=10 * slack)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "topk", "hybrid"])
def test_a_constant_added_to_y_is_added_to_the_result(offset, offset_setting, mode):
    y, constant = smooth(72, 6, 6, 3), np.array([0.5, -0.25, 2.0], np.float32)
    plain, moved = (
        offset.reconstruct(x, sigma=0.1, mode=mode, **offset_setting).image for x in (y, y + constant)
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
    mask[1:4, 1:4] = False  # of the patch in the middle nothing is seen
    return {"sigma": sigma, "mask": mask}, np.where(mask, sigma, np.inf)


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Reconstructor:
    return index_of(tmp_path_factory.mktemp("colours"), COLOURS, patch_size=3)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("mode", ["exact", "hybrid", "auto"])
@pytest.mark.parametrize("kind", ["mask", "noise map"])
def test_masks_and_noise_maps(colours, kind, mode, setting):
    y = smooth(70, 5, 5, 3)
    asked, s = request_kind(kind, y.shape, 0.1)
    mixture = colours.index.mixture
    oracle = quality_oracle(COLOURS, y.astype(np.float64), s, 3, mixture=mixture, **setting)
    result = colours.reconstruct(y, **asked, mode=mode, accuracy_db=120, maps=MAPS, **setting)
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


REFINED = [{"aggregate": "overlap"}, {"bandwidth": 0.1}, {"gaussian_share": 0.5}]


@pytest.mark.parametrize("asked", REFINED, ids=["aggregate", "bandwidth", "gaussian_share"])
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
@pytest.mark.parametrize("asked", REFINED)
def test_whole_images_have_no_patches(reconstructor, case, estimator, asked):
    with pytest.raises(InvalidArgument, match=f"expected none for {estimator}"):
        reconstructor.reconstruct(case.measurement(0.1), sigma=0.1, estimator=estimator, **asked)


@pytest.mark.parametrize("bandwidth", [-0.1, float("nan"), 1e7, "wide"])
def test_a_bandwidth_is_a_standard_deviation(reconstructor, case, bandwidth):
    with pytest.raises(InvalidArgument, match="expected a number"):
        reconstructor.reconstruct(case.measurement(0.1), sigma=0.1, bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (-0.1, r"expected a number in \[0, 1\], got -0.1"),
        (1.01, r"expected a number in \[0, 1\], got 1.01"),
        (float("nan"), r"expected a number in \[0, 1\], got nan"),
        ("wide", "expected a number, got 'wide'"),
        ([0.1, 0.2], r"expected a number, got \[0.1, 0.2\]"),
    ],
)
def test_a_share_is_a_part_of_one(reconstructor, case, share, words):
    with pytest.raises(InvalidArgument, match=f"^gaussian_share: {words}$"):
        reconstructor.reconstruct(case.measurement(0.1), sigma=0.1, gaussian_share=share)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Reconstructor:
    """Keys enough for hybrid to leave groups closed, and for several Gaussians."""
    training = [smooth(seed, 24, 24, 1) for seed in range(6)]
    reconstructor = index_of(tmp_path_factory.mktemp("scene"), training, patch_size=5)
    assert reconstructor.index.manifest.gaussians > 10
    return reconstructor


@pytest.mark.parametrize("setting", [{}, {"aggregate": "overlap"}, {"bandwidth": 0.05}], ids=str)
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_without_a_share_nothing_changes(scene, options, setting):
    y = smooth(80, 8, 8, 1)
    plain, none = (
        scene.reconstruct(y, sigma=0.1, maps=MAPS, **setting, **share, **options)
        for share in ({}, {"gaussian_share": 0})
    )
    for name in ("image", *MAPS):
        np.testing.assert_array_equal(getattr(none, name), getattr(plain, name))
    assert none.diagnostics.gaussian_share == 0


@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
@pytest.mark.parametrize("mode", ["auto", "exact", "topk", "hybrid"])
@pytest.mark.parametrize("mask", [None, np.arange(64).reshape(8, 8) % 3 > 0], ids=["all seen", "mask"])
def test_gaussians_alone_touch_no_key(scene, mode, aggregate, mask):
    y = smooth(80, 8, 8, 1)
    asked = {"sigma": 0.1, "mask": mask, "mode": mode, "aggregate": aggregate}
    alone = scene.reconstruct(y, gaussian_share=1, maps=["ess"], **asked)
    assert (alone.diagnostics.keys_touched, alone.diagnostics.gaussian_share) == (0, 1)
    assert alone.ess.max() <= scene.index.manifest.gaussians
    assert scene.reconstruct(y, gaussian_share=0.99, **asked).diagnostics.keys_touched > 0


@pytest.mark.parametrize("setting", [{}, {"bandwidth": 0.05}], ids=["share", "share and bandwidth"])
@pytest.mark.parametrize("accuracy_db", [20, 50])
@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5])
def test_the_certified_error_covers_the_distance_from_exact(scene, sigma, accuracy_db, setting):
    x = smooth(81, 12, 12, 1)
    y = x + sigma * np.random.default_rng(3).standard_normal(x.shape)
    exact = scene.reconstruct(y, sigma=sigma, mode="exact", gaussian_share=0.3, **setting)
    asked = {"sigma": sigma, "mode": "hybrid", "accuracy_db": accuracy_db, "gaussian_share": 0.3, **setting}
    certified = scene.reconstruct(y, maps=["error"], error="certified", **asked)
    assert certified.diagnostics.mode == "hybrid"
    off = np.abs(certified.image.astype(np.float64) - exact.image)
    assert (off <= certified.error).all()
    within = float((certified.error <= 10 ** (-accuracy_db / 20)).mean())
    assert certified.diagnostics.certified == within
    estimated = scene.reconstruct(y, maps=["error"], **asked)
    np.testing.assert_array_equal(estimated.image, certified.image)
    assert np.quantile(np.abs(estimated.image - exact.image) / estimated.error, 0.95) < 3


@pytest.mark.parametrize("error", ["estimated", "certified"])
def test_gaussians_alone_are_exact(scene, error):
    y = smooth(80, 8, 8, 1)
    asked = {"sigma": 0.2, "maps": ["error"], "error": error, "gaussian_share": 1}
    exact, hybrid = (scene.reconstruct(y, mode=mode, **asked) for mode in ("exact", "hybrid"))
    np.testing.assert_array_equal(hybrid.image, exact.image)
    assert (exact.error == 0).all()
    assert hybrid.error.max() < 1e-4  # what float32 rounds


@pytest.mark.parametrize("sigma", [1e-2, 1e-3, 1e-4])
def test_the_variance_that_little_noise_leaves(scene, sigma):
    x = smooth(83, 5, 5, 1)
    y = (x + sigma * np.random.default_rng(5).standard_normal(x.shape)).astype(np.float32)
    s, mixture = np.full(y.shape, sigma), scene.index.mixture
    told = scene.reconstruct(y, sigma=sigma, gaussian_share=1, maps=["variance"]).variance
    known = {"mixture": mixture, "gaussian_share": 1}
    oracle = quality_oracle([], y.astype(np.float64), s, 5, **known)
    np.testing.assert_allclose(told, oracle.variance, rtol=0.01)


def test_a_share_makes_the_error_of_hybrid_smaller(scene):
    """What closed groups may hide is a part of the posterior, of which the Gaussians have taken some."""
    y = smooth(82, 8, 8, 1) + 0.3 * np.random.default_rng(4).standard_normal((8, 8, 1))
    asked = {"sigma": 0.3, "mode": "hybrid", "accuracy_db": 20, "maps": ["error"]}
    none, much = (scene.reconstruct(y, gaussian_share=share, **asked).error for share in (0, 0.9))
    assert much.mean() < none.mean()


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        pytest.param((2, 3, 1), {"patch_size": 46}, marks=pytest.mark.slow),
        ((6, 6, 3), {"patch_size": 1, "equivariance": "offset"}),
    ],
    ids=["patches too long", "nothing but level"],
)
def test_patches_without_a_mixture_refuse_a_share(tmp_path, shape, options):
    y = smooth(1, *shape)
    reconstructor = index_of(tmp_path, [y], **options)
    assert (reconstructor.index.manifest.gaussians, reconstructor.index.mixture) == (0, None)
    with pytest.raises(
        InvalidArgument,
        match=r"^gaussian_share: expected 0, since index 'index' has no Gaussians; one of shorter",
    ):
        reconstructor.reconstruct(y, sigma=0.1, gaussian_share=0.5)
    assert np.isfinite(reconstructor.reconstruct(y, sigma=0.1).image).all()


EPLL = {"aggregate": "epll", "bandwidth": 0.02, "gaussian_share": 0.3}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_epll_is_half_quadratic_splitting(case, reconstructor, options, sigma):
    y = case.measurement(sigma).astype(np.float64)
    result = reconstructor.reconstruct(y, sigma=sigma, **EPLL, **options)
    model = {name: EPLL[name] for name in ("bandwidth", "gaussian_share")}
    s, mixture = np.full(y.shape, sigma), reconstructor.index.mixture
    expected = epll_oracle(case.training, y, s, case.p, mixture=mixture, **model)
    assert agreement(result.image, expected) >= 70
    assert (result.diagnostics.aggregate, result.diagnostics.mode) == ("epll", options["mode"])


def test_epll_weighs_pixels_by_their_noise_and_fills_in_those_not_observed(case, reconstructor):
    rng = np.random.default_rng(3)
    y = case.measurement(0.1).astype(np.float64)
    sigma, mask = rng.uniform(0.05, 0.3, y.shape), rng.random(y.shape) < 0.8
    result = reconstructor.reconstruct(np.where(mask, y, np.nan), sigma=sigma, mask=mask, aggregate="epll")
    expected = epll_oracle(case.training, np.where(mask, y, 0), np.where(mask, sigma, np.inf), case.p)
    assert agreement(result.image, expected) >= 70


def test_calibrated_epll_is_overlap_where_maps_are_asked_for(case, reconstructor):
    index, y = reconstructor.index, case.measurement(0.1)
    pictures = Pictures(1, (0.1,), (Refinement("epll", 0.02, 0.3),), (30.0,), (20.0,), (10.0,))
    best = Reconstructor(replace(index, manifest=replace(index.manifest, pictures=pictures)), device="cpu")
    answer = best.reconstruct(y, sigma=0.1, quality="best")
    assert answer.diagnostics.aggregate == "epll"
    np.testing.assert_array_equal(answer.image, reconstructor.reconstruct(y, sigma=0.1, **EPLL).image)
    with_map = best.reconstruct(y, sigma=0.1, quality="best", maps=("ess",))
    assert with_map.diagnostics.aggregate == "overlap"
    assert best.joint_options(Measurement.checked(y, sigma=0.1, mask=None), Options(quality="best")) is None


def test_the_work_of_epll_is_that_of_its_means(case, reconstructor):
    measurement = Measurement.checked(case.measurement(0.1), sigma=0.1, mask=None)
    one = reconstructor.work(measurement, Options(mode="exact", aggregate="overlap"))
    assert reconstructor.work(measurement, Options(**EPLL, mode="exact")) == 9 * one
    plain = Options(mode="exact", aggregate="epll", gaussian_share=0.0)
    assert reconstructor.work(measurement, plain) == 5 * one


def test_epll_has_no_maps_and_no_derivative(case, reconstructor):
    y = case.measurement(0.1)
    measurement = Measurement.checked(y, sigma=0.1, mask=None)
    refused = pytest.raises(InvalidArgument, match=r"^aggregate: expected centre or overlap .* got epll$")
    for asked in ({"maps": ("variance",)}, {"maps": ("error",), "error": "certified", "mode": "hybrid"}):
        with refused:
            reconstructor.reconstruct(y, sigma=0.1, aggregate="epll", **asked)
    with refused:
        reconstructor.differentiate(measurement, y, Options(aggregate="epll"))


def test_an_aggregate_has_a_name(reconstructor, case):
    with pytest.raises(InvalidArgument, match="expected one of centre, overlap, epll, got 'mean'"):
        reconstructor.reconstruct(case.measurement(0.1), sigma=0.1, aggregate="mean")
