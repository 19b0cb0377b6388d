"""Very low and very high noise, and measurements far from all training images: answers are finite, and right.

The oracle computes in long double. Where keys are so far away that float64 cannot tell which are the nearest,
the answer must be among the targets of those that may be.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract.measurement import Measurement
from lemmse.estimator import Reconstructor
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.observation import as_observation
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.key_oracle import KeyOracle
from tests.support.problems import KINDS
from tests.support.whole_oracle import emmse_oracle, mmse_oracle

MAPS = ("variance", "ess", "log_density")
ALL_KEYS = 10**6
RESOLVED = 1e-3
"""Largest error of log w in float64 with which means are compared, instead of ranges."""

sigmas = st.floats(-6, 6).map(lambda x: 10.0**x)
budgets = st.none() | st.floats(0, 4).map(lambda x: int(10**x))


@st.composite
def images(draw, shape):
    """A measurement that is like the training images or not at all, up to ±10⁶."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest = 10.0 ** draw(st.floats(-2, 6))
    clean = smooth(int(rng.integers(1000)), *shape).astype(float)
    return {
        "near": clean + min(largest, 1.0) * rng.standard_normal(shape),
        "scaled": largest * clean,
        "noise": rng.uniform(-largest, largest, shape),
        "outliers": clean + largest * rng.choice([-1, 0, 0, 0, 0, 0, 0, 1], shape) / 2,
        "constant": np.full(shape, rng.uniform(-largest, largest)),
    }[draw(st.sampled_from(["near", "scaled", "noise", "outliers", "constant"]))]


class Subject:
    """An index with everything that answers from it."""

    def __init__(self, index, shape):
        self.shape, self.reconstructor = shape, Reconstructor(index, device="cpu")
        self.oracle = KeyOracle(LocalBackend(index, self.reconstructor._backend.device))

    def expected(self, y, sigma, mask=None):
        measurement = Measurement.checked(y, sigma=sigma, mask=mask)
        observation = as_observation(measurement, self.shape[2])
        return [self.oracle.answer(observation, n) for n in range(self.shape[0] * self.shape[1])]

    def ask(self, y, sigma, maps=MAPS, **asked):
        """The answer, all of which must be finite."""
        result = self.reconstructor.reconstruct(y, sigma=sigma, maps=maps, **asked)
        for name in ("image", *maps):
            assert np.isfinite(getattr(result, name)).all(), name
        return result

    def pixels(self, image):
        return image.reshape(-1, self.shape[2]).astype(float)


def assert_right(subject, result, expected, atol):
    for found, known in zip(subject.pixels(result.image), expected, strict=True):
        slack = atol + 1e-6 * np.abs(known.mean)
        if known.error < RESOLVED:
            np.testing.assert_allclose(found, known.mean, rtol=0, atol=slack.max())
        else:
            assert (found >= known.low - slack).all()
            assert (found <= known.high + slack).all()


def assert_bounded(subject, result, expected):
    for found, error, known in zip(
        subject.pixels(result.image), subject.pixels(result.error), expected, strict=True
    ):
        rounding = 1e-6 * np.abs(known.mean)
        if known.error < RESOLVED:
            assert (np.abs(found - known.mean) <= error + rounding).all()
        else:
            assert (found + error >= known.low - rounding).all()
            assert (found - error <= known.high + rounding).all()


@pytest.fixture(scope="module", params=KINDS, ids=lambda problem: problem.name)
def of_problem(request, made_once):
    return Subject(request.param.built(made_once), request.param.shape)


def built(folder, images, shape, **options):
    np.save(folder / "x.npy", images)
    return Subject(open_index(build([folder / "x.npy"], folder / "index", patch_size=3, **options)), shape)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Clean patches of colour images, for images of another size."""
    images = np.rint(255 * np.stack([smooth(seed, 16, 16, 3) for seed in range(8)])).astype(np.uint8)
    return built(tmp_path_factory.mktemp("clean"), images, (4, 5, 3))


@pytest.fixture(scope="module")
def offset(tmp_path_factory):
    images = np.rint(255 * np.stack([smooth(seed, 9, 9, 1) for seed in range(8)])).astype(np.uint8)
    return built(tmp_path_factory.mktemp("offset"), images, (4, 5, 1), equivariance="offset")


def check_modes(subject, y, sigma, budget, mask=None):
    expected, asked = subject.expected(y, sigma, mask), {"mask": mask}
    for modes in ({"mode": "exact"}, {"mode": "auto"}, {"mode": "topk", "k": ALL_KEYS}):
        assert_right(subject, subject.ask(y, sigma, **asked, **modes), expected, 0.01)
    asked |= {"maps": (*MAPS, "error"), "mode": "hybrid"}
    # Of groups little is known with a precision for each pixel, and no calibration applies.
    atol = 0.01 if mask is None else 0.1
    assert_right(subject, subject.ask(y, sigma, accuracy_db=120, **asked), expected, atol)
    certified = subject.ask(y, sigma, budget=budget, error="certified", **asked)
    if certified.diagnostics.mode == "hybrid":
        assert_bounded(subject, certified, expected)
    else:  # with a precision for each pixel
        assert_right(subject, certified, expected, 0.01)
    within = subject.ask(y, sigma, budget=budget, **asked)
    strata = subject.oracle.backend.index.strata
    if budget is not None and mask is None and not strata.exclusive:  # unobserved patches are summed exactly
        assert within.diagnostics.keys_touched <= budget * len(strata)


@given(st.data(), sigmas, budgets)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_every_problem_is_answered_at_all_noise_and_however_far_y_is(of_problem, data, sigma, budget):
    y = data.draw(images(of_problem.shape))
    check_modes(of_problem, y, sigma, budget)


@given(st.data(), sigmas, budgets)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_clean_patches_of_colour(clean, data, sigma, budget):
    check_modes(clean, data.draw(images(clean.shape)), sigma, budget)


@given(st.data(), sigmas, budgets)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_patches_without_their_level(offset, data, sigma, budget):
    check_modes(offset, data.draw(images(offset.shape)), sigma, budget)


@given(st.data(), sigmas, st.floats(0, 3), st.floats(0, 1), budgets)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_noise_map_and_a_mask(clean, data, sigma, spread, share, budget):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    noise = np.clip(sigma * 10 ** rng.uniform(-spread, spread, clean.shape), 1e-6, 1e6)
    check_modes(clean, data.draw(images(clean.shape)), noise, budget, rng.random(clean.shape[:2]) < share)


@given(
    st.data(),
    sigmas,
    st.sampled_from(["centre", "overlap"]),
    st.just(0.0) | st.floats(-6, 0).map(lambda x: 10.0**x),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    st.sampled_from(["estimated", "certified"]),
    budgets,
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_refinements_are_numbers(clean, data, sigma, aggregate, bandwidth, share, error, budget):
    y = data.draw(images(clean.shape))
    options = {"aggregate": aggregate, "bandwidth": bandwidth, "gaussian_share": share}
    clean.ask(y, sigma, mode="exact", **options)
    for maps in (("error",), (*MAPS, "error")):
        clean.ask(y, sigma, maps=maps, mode="hybrid", budget=budget, error=error, **options)
    mask = np.random.default_rng(1).random(y.shape) < 0.5
    clean.ask(y, sigma, mask=mask, mode="hybrid", budget=budget, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    images = np.rint(255 * np.stack([smooth(seed, 4, 3, 1) for seed in range(5)])).astype(np.uint8)
    return images / 255, built(tmp_path_factory.mktemp("whole"), images, (4, 3, 1))


@pytest.mark.parametrize("oracle", [mmse_oracle, emmse_oracle])
@given(st.data(), sigmas)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_whole_images(oracle, whole, data, sigma):
    training, subject = whole
    y = data.draw(images(subject.shape))
    found = subject.ask(y, sigma, estimator="mmse" if oracle is mmse_oracle else "e-mmse")
    expected = oracle(training, training, y, np.full(y.shape, sigma))
    if y.size * np.square(y).max() / sigma**2 < 1e10:  # beyond, float64 does not resolve log w in the oracle
        np.testing.assert_allclose(found.image, expected.image, rtol=0, atol=1e-3)
    assert found.image.min() >= training.min() - 1e-6
    assert found.image.max() <= training.max() + 1e-6


@pytest.mark.parametrize("error", ["estimated", "certified"])
@pytest.mark.parametrize("budget", [1, 50, None])
@pytest.mark.parametrize("times", [1, 255, 9e4])
@pytest.mark.parametrize("sigma", [1e-6, 1e-5, 1e-4, 0.003])
def test_a_group_that_no_weight_reaches_still_answers(clean, sigma, times, budget, error):
    y = times * smooth(900, *clean.shape).astype(float)
    result = clean.ask(y, sigma, maps=(*MAPS, "error"), mode="hybrid", budget=budget, error=error)
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    if budget is None:
        assert_right(clean, result, clean.expected(y, sigma), 1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_a_certified_error_holds_a_thousand_times_beyond_the_range(clean, seed):
    rng = np.random.default_rng(seed)
    y = smooth(seed, *clean.shape) + 1000 * rng.standard_normal(clean.shape) * (rng.random(clean.shape) < 0.3)
    for sigma in (0.02, 0.3, 3.0):
        expected = clean.expected(y, sigma)
        for budget in (1, 100, None):
            result = clean.ask(y, sigma, maps=("error",), mode="hybrid", budget=budget, error="certified")
            assert_bounded(clean, result, expected)


@pytest.mark.parametrize("mode", [{"mode": "exact"}, {"mode": "topk", "k": ALL_KEYS}])
def test_what_all_keys_share_hides_no_difference(clean, mode):
    """One outlier adds −10¹⁶ to log w; the other pixels decide among the keys that are nearest to it."""
    y, noise = smooth(3, *clean.shape).astype(float), np.full(clean.shape, 0.3)
    y[1, 1, 0], noise[1, 1, 0] = 1e6, 0.005
    assert_right(clean, clean.ask(y, noise, **mode), clean.expected(y, noise), 1e-3)
