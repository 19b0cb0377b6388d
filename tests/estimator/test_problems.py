"""Every inverse problem of the paper, and masks and noise maps per request, in every mode: the oracle's."""

import numpy as np
import pytest

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.oracle import agreement
from tests.support.problem_oracle import weighted_oracle
from tests.support.problems import PROBLEMS, P, Problem, centred_square, mosaic

MODES = {"exact": {"mode": "exact"}, "topk of all": {"mode": "topk", "k": 10**6}}
MAPS = ("variance", "ess", "log_density")

pytestmark = pytest.mark.usefixtures("topk_is_searched")


@pytest.fixture(params=PROBLEMS, ids=lambda problem: problem.name, scope="module")
def problem(request) -> Problem:
    return request.param


@pytest.fixture(scope="module")
def lemmse(problem, made_once) -> Reconstructor:
    return Reconstructor(problem.built(made_once))


@pytest.mark.parametrize("options", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
def test_agrees_with_the_oracle(problem, lemmse, sigma, options):
    result = lemmse.reconstruct(problem.measurement(sigma), sigma=sigma, maps=MAPS, **options)
    expected = problem.expected(sigma)
    assert agreement(result.image, expected.image) >= problem.decibels
    slack = 1e-4 + 1e-6 / sigma**2
    np.testing.assert_allclose(result.ess, expected.ess, rtol=10 * slack)
    np.testing.assert_allclose(result.variance, expected.variance, rtol=10 * slack, atol=1e-5)
    np.testing.assert_allclose(result.log_density, expected.log_density, rtol=1e-4, atol=10 * slack)


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
def test_hybrid_comes_as_near_to_the_oracle_as_it_is_asked(problem, lemmse, sigma):
    y = problem.measurement(sigma)
    result = lemmse.reconstruct(y, sigma=sigma, mode="hybrid", accuracy_db=120, maps=["error"])
    assert agreement(result.image, problem.expected(sigma).image) >= problem.decibels
    assert np.isfinite(result.error).all()


def test_explain_agrees_with_the_oracle(problem, lemmse):
    expected = problem.expected(0.1)
    weights = dict(zip(expected.ids, expected.weights[1, 2], strict=True))
    named = lemmse.explain(problem.measurement(0.1), sigma=0.1, pixel=(1, 2), top=5).contributors
    heaviest = sorted(weights.values(), reverse=True)[: len(named)]
    np.testing.assert_allclose([c.weight for c in named], heaviest, rtol=1e-2, atol=1e-9)
    for c in named:
        assert c.weight == pytest.approx(weights[c.image, c.row, c.column], rel=1e-2, abs=1e-9)


def index_of(tmp_path, training, **options) -> Reconstructor:
    np.save(tmp_path / "x.npy", np.stack(training))
    return Reconstructor(open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=P, **options)))


def test_wholly_masked_patches_give_the_mean_of_such_centres(tmp_path):
    training = [smooth(seed, 9, 9, 1).astype(float) for seed in range(5)]
    lemmse = index_of(tmp_path, training, physics="inpaint:center:5", pre_inverse="mask")
    y = smooth(50, 9, 9, 1) * centred_square((9, 9, 1), 5)
    inside = np.stack(training)[:, 3:6, 3:6, 0]
    for options in ({"mode": "exact"}, {"mode": "topk", "k": 2, "nprobe": 1}):
        result = lemmse.reconstruct(y, sigma=0.1, maps=("ess",), **options)
        np.testing.assert_allclose(result.image[3:6, 3:6, 0], inside.mean(), rtol=1e-6)
        np.testing.assert_allclose(result.ess[3:6, 3:6], inside.size, rtol=1e-6)


def test_a_pattern_that_no_training_patch_has_is_an_error(tmp_path):
    training = [smooth(seed, 8, 8, 1).astype(float) for seed in range(2)]
    lemmse = index_of(tmp_path, training, physics="inpaint:random:40:7", pre_inverse="mask")
    with pytest.raises(InvalidArgument, match="y: expected an image whose mask has the patterns"):
        lemmse.reconstruct(smooth(1, 9, 8, 1), sigma=0.1)


def test_where_patches_are_inside_a_mask_has_no_other_patterns_at_the_border(tmp_path):
    training = [smooth(seed, 8, 8, 1).astype(float) for seed in range(2)]
    with pytest.raises(InvalidArgument, match="boundary: expected circular or reflect for physics"):
        index_of(tmp_path, training, physics="inpaint:random:40:7", pre_inverse="mask", boundary="valid")


TRAINING = [smooth(seed, 7, 6, 3).astype(float) for seed in range(4)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Reconstructor:
    return index_of(tmp_path_factory.mktemp("clean"), TRAINING)


def requests():
    rng = np.random.default_rng(9)
    shape = (6, 5, 3)
    decimated = np.zeros(shape[:2])
    decimated[::2, ::2] = 1
    return {
        "noise map": (rng.uniform(0.02, 0.5, shape[:2]), None),
        "noise map by channel": (rng.uniform(0.02, 0.5, shape), None),
        "random mask": (0.1, rng.random(shape[:2]) < 0.6),
        "random mask by channel": (0.05, (rng.random(shape) < 0.6).astype(int)),
        "mosaic": (0.05, mosaic(shape)),
        "decimation": (0.05, decimated),
        "mask and noise map": (rng.uniform(0.02, 0.5, shape[:2]), rng.random(shape[:2]) < 0.6),
        "large hole": (0.1, np.arange(30).reshape(6, 5) < 5),
        "nothing seen": (0.1, np.zeros(shape[:2])),
        "low noise": (0.01, mosaic(shape)),
    }


@pytest.mark.parametrize("options", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("name", requests())
def test_masks_and_noise_maps_agree_with_the_oracle(clean, name, options):
    sigma, mask = requests()[name]
    shape = (6, 5, 3)

    def full(a):
        a = np.asarray(a, float)
        return np.broadcast_to(a[..., None] if a.ndim == 2 else a, shape)

    observed = full(np.ones(shape) if mask is None else mask) != 0
    y = smooth(60, *shape) + full(sigma) * np.random.default_rng(1).standard_normal(shape)
    precision = np.where(observed, 1 / full(sigma) ** 2, 0)
    expected = weighted_oracle(TRAINING, y, precision, P)
    if mask is not None:
        y = np.where(observed, y, np.nan)
    result = clean.reconstruct(y, sigma=sigma, mask=mask, maps=MAPS, **options)
    assert agreement(result.image, expected.image) >= 80
    np.testing.assert_allclose(result.ess, expected.ess, rtol=1e-2)
    np.testing.assert_allclose(result.variance, expected.variance, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(result.log_density, expected.log_density, rtol=1e-4, atol=1e-2)
    named = clean.explain(y, sigma=sigma, mask=mask, pixel=(2, 3), top=4).contributors
    heaviest = np.sort(expected.weights[2, 3])[::-1][:4]
    np.testing.assert_allclose([c.weight for c in named], heaviest, rtol=1e-2)


def test_a_mask_of_ones_and_a_flat_noise_map_change_nothing(clean):
    y = smooth(61, 6, 5, 3)
    plain = clean.reconstruct(y, sigma=0.1, mode="exact", maps=MAPS)
    for asked in ({"sigma": 0.1, "mask": np.ones((6, 5))}, {"sigma": np.full((6, 5, 3), 0.1)}):
        result = clean.reconstruct(y, mode="exact", maps=MAPS, **asked)
        for name in ("image", *MAPS):
            np.testing.assert_allclose(getattr(result, name), getattr(plain, name), rtol=1e-3, atol=1e-5)


def test_topk_with_a_mask_is_near_the_exact_posterior_at_low_noise(clean):
    y = smooth(62, 6, 5, 3) + 0.02 * np.random.default_rng(1).standard_normal((6, 5, 3))
    mask = np.random.default_rng(2).random((6, 5)) < 0.9
    exact = clean.reconstruct(y, sigma=0.02, mask=mask, mode="exact")
    found = [
        clean.reconstruct(y, sigma=0.02, mask=mask, mode="topk", k=5, nprobe=nprobe) for nprobe in (1, 8, 100)
    ]
    agreements = [agreement(result.image, exact.image) for result in found]
    assert agreements[0] < agreements[1] < agreements[2]
    assert agreements[2] > 60
    touched = [result.diagnostics.keys_touched for result in found]
    assert touched[0] < touched[1] < touched[2] == exact.diagnostics.keys_touched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.ones((5, 5))}, r"mask: expected shape \(6, 5\) or \(6, 5, 3\), that of y, got \(5, 5\)"),
        (
            {"mask": np.full((6, 5), np.nan)},
            "mask: expected booleans or numbers, not 0 where observed, got NaN",
        ),
        ({"mask": np.full((6, 5), "x")}, "mask: expected booleans or numbers, not 0 where observed, got <U1"),
        (
            {"sigma": np.full((6, 4), 0.1)},
            r"sigma: expected shape \(6, 5\) or \(6, 5, 3\), that of y, got \(6, 4\)",
        ),
        ({"sigma": np.zeros((6, 5))}, r"sigma: expected a number in \[1e-06, 1e\+06\], got 0"),
        ({"estimator": "mse"}, "estimator: expected one of le-mmse, e-mmse, mmse, got 'mse'"),
        ({"estimator": "mmse", "mode": "topk"}, "mode: expected auto or exact for mmse, got topk"),
        ({"estimator": "mmse"}, r"y: expected .*shape.* \(7, 6, 3\)"),
    ],
)
def test_bad_requests_are_named(clean, change, message):
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        clean.reconstruct(smooth(61, 6, 5, 3), **({"sigma": 0.1} | change))


def test_masks_and_noise_maps_need_an_index_of_clean_patches(tmp_path):
    lemmse = index_of(tmp_path, TRAINING, physics="blur:gaussian:1.0", pre_inverse="identity")
    for argument, asked in {
        "mask": {"sigma": 0.1, "mask": np.eye(7, 6)},
        "sigma": {"sigma": np.full((7, 6), 0.1)},
    }.items():
        with pytest.raises(InvalidArgument, match=f"^{argument}: .* needs an index of physics identity"):
            lemmse.reconstruct(TRAINING[0], **asked)


def test_a_pixel_that_was_not_seen_and_is_the_whole_patch(tmp_path):
    np.save(tmp_path / "x.npy", np.stack([x[..., :1] for x in TRAINING]))
    lemmse = Reconstructor(open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=1)))
    result = lemmse.reconstruct(np.full((1, 1), np.nan), sigma=0.1, mask=np.zeros((1, 1)), maps=("ess",))
    np.testing.assert_allclose(result.image, np.mean([x[..., 0] for x in TRAINING]), rtol=1e-6)
    np.testing.assert_allclose(result.ess, lemmse.index.manifest.keys, rtol=1e-6)


def test_a_pre_inverse_meets_images_of_another_size_only_where_their_noise_is_the_same(tmp_path):
    training = [smooth(seed, 24, 24, 1).astype(float) for seed in range(2)]
    lemmse = index_of(tmp_path, training, physics="blur:gaussian:0.6", pre_inverse="wiener:0.3")
    assert lemmse.reconstruct(smooth(9, 30, 40, 1), sigma=0.3).image.shape == (30, 40, 1)
    with pytest.raises(InvalidArgument, match="y: expected an image of the training images' size"):
        lemmse.reconstruct(smooth(9, 4, 4, 1), sigma=0.3)


@pytest.mark.parametrize("estimator", ["mmse", "e-mmse"])
def test_the_family_by_its_formula(clean, estimator):
    """Whole images, weighed by brute force; their own suite is in test_whole.py."""
    y = TRAINING[1] + 0.4 * np.random.default_rng(4).standard_normal(TRAINING[1].shape)
    shifts = [(i, j) for i in range(7) for j in range(6)] if estimator == "e-mmse" else [(0, 0)]
    candidates = np.stack([np.roll(x, shift, (0, 1)) for x in TRAINING for shift in shifts])
    log_w = -((candidates - y) ** 2).sum(axis=(1, 2, 3)) / (2 * 0.4**2)
    w = np.exp(log_w - log_w.max())
    expected = np.tensordot(w, candidates, 1) / w.sum()
    result = clean.reconstruct(y, sigma=0.4, estimator=estimator, maps=MAPS)
    assert agreement(result.image, expected) > 100
    variance = np.tensordot(w, candidates**2, 1) / w.sum() - expected**2
    np.testing.assert_allclose(result.variance, variance, atol=1e-6)
    np.testing.assert_allclose(result.ess, w.sum() ** 2 / (w**2).sum(), rtol=1e-5)
    log_norm = -0.5 * y.size * np.log(2 * np.pi * 0.4**2) - np.log(len(w))
    np.testing.assert_allclose(result.log_density, log_w.max() + np.log(w.sum()) + log_norm, rtol=1e-5)
    assert result.diagnostics.mode == "exact"
