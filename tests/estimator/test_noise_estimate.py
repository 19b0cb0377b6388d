"""The noise of an image: exact where its answer is known, near the truth where it is not."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.estimator import Reconstructor
from lemmse.estimator.cancellation import never
from lemmse.estimator.image_noise import _Sample
from lemmse.estimator.noise_estimate import LEAST, maximum_likelihood, median_sigma, spread
from lemmse.estimator.observation import observe
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.oracle import patch
from tests.support.quality_oracle import posterior, prior
from tests.support.volume_oracle import cut

P = 3
TAILS = (1, 0.9), (4, 0.07), (16, 0.03)
"""Factors and shares of widened Gaussians, from docs/mathematics.md."""


def reconstructor(folder, images, **options) -> Reconstructor:
    np.save(folder / "images.npy", np.stack(images))
    index = build([folder / "images.npy"], folder / "index", **{"patch_size": P} | options)
    return Reconstructor(open_index(index), device="cpu")


def unknown(y, mask=None) -> Measurement:
    return Measurement.checked(y, sigma="auto", mask=mask)


def waves(seed: int, size: int, channels: int = 1) -> np.ndarray:
    """An image of a few slow waves."""
    rng = np.random.default_rng(seed)
    r, c = np.mgrid[:size, :size]
    planes = [
        sum(
            np.sin(rng.uniform(-0.4, 0.4) * r + rng.uniform(-0.4, 0.4) * c + 6 * rng.random())
            for _ in range(3)
        )
        for _ in range(channels)
    ]
    return (0.5 + 0.15 * np.stack(planes, axis=2)).astype(np.float32)


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Reconstructor:
    return reconstructor(tmp_path_factory.mktemp("grey"), [waves(k, 32) for k in range(8)])


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Reconstructor:
    return reconstructor(tmp_path_factory.mktemp("colours"), [waves(k, 32, 3) for k in range(8)])


@pytest.mark.parametrize("start", [0.01, 0.1, 2.0])
@pytest.mark.parametrize("sigma", [0.03, 0.3])
def test_the_most_likely_noise_of_a_gaussian_model(start, sigma):
    """Of patches of N(0, (v + σ²) I), it is the root of their mean square less v, and the error is known."""
    variance, p, rng = 1e-4, 5, np.random.default_rng(0)
    centres = np.array([(0, 10 * i, 10 * j) for i in range(20) for j in range(20)])  # none overlap
    u = math.sqrt(variance + sigma**2) * rng.standard_normal((400, p * p))

    def log_density(s, rows):
        total = variance + float(s[0]) ** 2
        return -0.5 * (np.square(u[rows]).sum(axis=1) / total + p * p * math.log(2 * math.pi * total))

    found = maximum_likelihood(log_density, np.array([start]), centres, (1, p, p))
    expected = math.sqrt(np.square(u).mean() - variance)
    # Not exactly: patches with outlying scores weigh less.
    assert abs(found.sigma[0] - expected) < found.error[0]
    exact = (sigma**2 + variance) / sigma**2 / math.sqrt(2 * u.size)
    assert found.error[0] / found.sigma[0] == pytest.approx(exact, rel=0.15)


def test_copies_of_a_patch_do_not_make_the_estimate_surer():
    rng = np.random.default_rng(1)
    u = 0.1 * rng.standard_normal((100, 25))
    centres = np.array([(0, 10 * i, 10 * j) for i in range(10) for j in range(10)])

    def error(copies):
        v, places = (np.repeat(one, copies, axis=0) for one in (u, centres))

        def log_density(s, rows):
            return -0.5 * np.square(v[rows]).sum(axis=1) / float(s[0]) ** 2 - 25 * math.log(float(s[0]))

        return maximum_likelihood(log_density, np.array([0.1]), places, (1, 5, 5)).error[0]

    assert error(4) == pytest.approx(error(1), rel=0.1)  # of as many independent ones it would be a half


def test_the_median_estimate_is_that_of_whole_blocks():
    rng = np.random.default_rng(2)
    y, observed = rng.random((5, 7, 2)), rng.random((5, 7, 2)) < 0.9
    for c in range(2):
        found = [
            abs(y[i, j, c] - y[i + 1, j, c] - y[i, j + 1, c] + y[i + 1, j + 1, c]) / 2
            for i in (0, 2)
            for j in (0, 2, 4)
            if observed[i : i + 2, j : j + 2, c].all()
        ]
        assert median_sigma(y[None], observed[None])[c] == pytest.approx(np.median(found) / 0.6745)
    assert np.isnan(median_sigma(y[None], np.zeros((1, *y.shape), bool))).all()


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9)),
    st.integers(1, 60),
    st.randoms(use_true_random=False),
)
def test_patches_are_inside_and_as_complete_as_their_neighbours(sides, more, count, random):
    rng = np.random.default_rng(random.getrandbits(32))
    bad = rng.random((*np.add(sides, more), 2)) < 0.3
    centres, numbers = spread(bad, sides, count)
    assert len({tuple(centre) for centre in centres.tolist()}) == len(centres) <= 2 * count + 2
    for first, number in zip(centres - np.array(sides) // 2, numbers, strict=True):
        assert (first >= 0).all()
        assert (first <= more).all()
        (z, i, j), (p_z, p, q) = first, sides
        assert bad[z : z + p_z, i : i + p, j : j + q].sum() == number <= p_z * p * q


def with_tails(mixture, basis) -> list:
    """The prior of the oracle: every covariance Σ is also 4 and 16 times as large, but for its white part."""
    parts = []
    for scale, share in TAILS:
        white = mixture.variances.min(axis=1, keepdims=True)
        wide = replace(mixture, variances=white + scale * (mixture.variances - white))
        parts += [(w + math.log(share), mean, cov) for w, mean, cov in prior([], P, 0.0, wide, 1.0, basis)]
    return parts


@pytest.mark.parametrize("kind", ["white", "channels", "mask"])
def test_densities_are_those_of_the_mixture(colours, kind):
    y = waves(20, 9, 3).astype(np.float64)
    sigma = np.array([0.1]) if kind != "channels" else np.array([0.05, 0.1, 0.2])
    mask = np.random.default_rng(3).random((9, 9)) < 0.7 if kind == "mask" else np.ones((9, 9), bool)
    observation = observe(colours.index, Measurement.checked(y, sigma=1.0, mask=mask))
    sample = _Sample(colours._backend, observation, lambda: False)
    s = np.where(mask[..., None], sigma, np.inf) * np.ones(3)
    parts = with_tails(colours.index.mixture, np.eye(27))
    expected = [
        posterior(patch(y, i, j, P), patch(s, i, j, P), parts)["log_density"] for _, i, j in sample.centres
    ]
    np.testing.assert_allclose(sample.log_density(sigma, slice(None)), expected, rtol=1e-4, atol=1e-3)


def test_densities_without_levels(tmp_path):
    offset = reconstructor(tmp_path, [waves(k, 12) for k in range(3)], equivariance="offset")
    y = waves(20, 8).astype(np.float64)
    sample = _Sample(
        offset._backend, observe(offset.index, Measurement.checked(y, sigma=1.0, mask=None)), lambda: False
    )
    rest = np.linalg.svd(np.ones((9, 1)), full_matrices=True)[0][:, 1:]
    parts = with_tails(offset.index.mixture, rest)
    expected = [
        posterior(rest.T @ patch(y, i, j, P), np.full(8, 0.1), parts, rest)["log_density"]
        for _, i, j in sample.centres
    ]
    found = sample.log_density(np.array([0.1]), slice(None))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("masked", [False, True])
def test_the_estimate_and_its_error_are_right(grey, sigma, masked):
    rng = np.random.default_rng(4)
    found = []
    for k in range(4 if masked else 8):  # with a mask, an estimate takes ten times as long
        x = waves(100 + k, 32)
        mask = rng.random(x.shape) < 0.8 if masked else None
        y = x + sigma * rng.standard_normal(x.shape)
        if masked:
            y = np.where(mask, y, np.nan)
        estimate = grey.estimate_noise(unknown(y, mask))
        found.append((estimate.sigma[0] / sigma - 1, estimate.sigma_error[0] / sigma))
    off, error = np.array(found).T
    assert np.sqrt(np.square(off).mean()) < 0.08
    # At low noise, it matters how well the mixture describes the image, which the error does not know.
    assert 0.4 < np.sqrt(np.square(off / error).mean()) < (2.5 if sigma == 0.02 else 1.7)


def drifting(seed: int, depth: int, size: int) -> np.ndarray:
    """A volume of a few slow waves that drift from plane to plane."""
    return np.stack([waves(seed, size + depth)[z : z + size, z : z + size] for z in range(depth)])


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> Reconstructor:
    images = [drifting(k, 6, 16)[..., 0] for k in range(8)]
    return reconstructor(tmp_path_factory.mktemp("volumes"), images, patch_depth=3)


def test_a_volume_has_one_estimate(volumes):
    rng, found = np.random.default_rng(8), []
    for k in range(6):
        x = drifting(100 + k, 6, 16)
        estimate = volumes.estimate_noise(unknown(x + 0.1 * rng.standard_normal(x.shape)))
        found.append((estimate.sigma[0] / 0.1 - 1, estimate.sigma_error[0] / 0.1))
    off, error = np.array(found).T
    assert np.sqrt(np.square(off).mean()) < 0.06
    assert 0.4 < np.sqrt(np.square(off / error).mean()) < 1.8
    with pytest.raises(InvalidArgument, match="a volume smaller than a patch, 3x3x3, got auto for 2x16x16"):
        volumes.estimate_noise(unknown(np.zeros((2, 16, 16))))


def test_densities_of_patches_of_volumes(volumes):
    y = drifting(100, 5, 7).astype(np.float64)
    sample = _Sample(
        volumes._backend, observe(volumes.index, Measurement.checked(y, sigma=1.0, mask=None)), never
    )
    parts = with_tails(volumes.index.mixture, np.eye(27))
    expected = [
        posterior(cut(y, tuple(centre), (3, 3, 3), "circular"), np.full(27, 0.1), parts)["log_density"]
        for centre in sample.centres
    ]
    found = sample.log_density(np.array([0.1]), slice(None))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_channels_that_differ_have_their_own(colours):
    rng, sigmas = np.random.default_rng(5), np.array([0.03, 0.06, 0.2])
    x = waves(50, 48, 3)
    estimate = colours.estimate_noise(unknown(x + sigmas * rng.standard_normal(x.shape)))
    np.testing.assert_allclose(estimate.sigma, sigmas, rtol=0.1)
    np.testing.assert_array_less(
        np.abs(np.array(estimate.sigma) - sigmas), 4 * np.array(estimate.sigma_error)
    )
    alike = colours.estimate_noise(unknown(x + 0.1 * rng.standard_normal(x.shape)))
    assert len(alike.sigma) == 1


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_clipped_bytes(grey, sigma):
    rng, off = np.random.default_rng(6), []
    for k in range(6):
        x = waves(200 + k, 32) - 0.3  # a part is near black, and a part black
        y = np.clip(np.round(255 * (np.clip(x, 0, 1) + sigma * rng.standard_normal(x.shape))), 0, 255)
        off.append(grey.estimate_noise(unknown(y.astype(np.uint8))).sigma[0] / sigma - 1)
    assert abs(np.mean(off)) < 0.12


def test_auto_is_the_answer_with_the_estimate(grey):
    y = waves(30, 16) + 0.1 * np.random.default_rng(7).standard_normal((16, 16, 1))
    estimate = grey.estimate_noise(unknown(y))
    auto, told = (grey.reconstruct(y, sigma=sigma) for sigma in ("auto", estimate.sigma[0]))
    np.testing.assert_array_equal(auto.image, told.image)
    assert (auto.diagnostics.sigma, auto.diagnostics.sigma_error) == (estimate.sigma, estimate.sigma_error)
    assert told.diagnostics.sigma == told.diagnostics.sigma_error == ()
    one = grey.explain(y, sigma="auto", pixel=(3, 4), top=2)
    other = grey.explain(y, sigma=estimate.sigma[0], pixel=(3, 4), top=2)
    assert one.contributors == other.contributors
    assert one.diagnostics.sigma == estimate.sigma


def test_no_noise_is_the_least(grey):
    estimate = grey.estimate_noise(unknown(np.full((9, 9), 0.5)))
    assert estimate.sigma == (LEAST,)
    assert np.isfinite(estimate.sigma_error).all()
    np.testing.assert_allclose(grey.reconstruct(np.full((9, 9), 0.5), sigma="auto").image, 0.5, atol=0.02)


@pytest.mark.parametrize(
    ("y", "mask", "words"),
    [
        (np.zeros((1, 1)), None, "an image smaller than a patch, 3x3, got auto for 1x1"),
        (np.zeros((2, 9)), None, "an image smaller than a patch, 3x3, got auto for 2x9"),
        (np.zeros((9, 9)), np.zeros((9, 9)), "nowhere half of 3x3 pixels were observed, got auto"),
    ],
)
def test_what_shows_no_noise_is_refused(grey, y, mask, words):
    for ask in (grey.estimate_noise, lambda m: grey.reconstruct(m.y, sigma="auto", mask=m.mask)):
        with pytest.raises(InvalidArgument, match=f"^sigma: expected a number .*{words}"):
            ask(unknown(y, mask))


def test_an_image_of_one_patch_tells_how_little_it_knows(grey):
    y = 0.5 + 0.1 * np.random.default_rng(8).standard_normal((3, 3))
    estimate = grey.estimate_noise(unknown(y))
    assert estimate.sigma_error[0] > 0.1 * estimate.sigma[0]


def test_an_index_of_another_problem_is_refused(tmp_path):
    blurred = reconstructor(tmp_path, [smooth(1, 8, 8, 1)], physics="blur:gaussian:0.6")
    words = "expected a number for an index of physics blur:gaussian:0.6 and pre-inverse identity, got auto"
    with pytest.raises(InvalidArgument, match=f"^sigma: {words}"):
        blurred.reconstruct(np.zeros((8, 8)), sigma="auto")


def test_it_stops_when_it_is_cancelled(grey):
    with pytest.raises(Cancelled):
        grey.estimate_noise(unknown(waves(1, 16)), lambda: True)


def test_its_work_is_counted(grey):
    y, options = waves(1, 16), Options()
    known = Measurement.checked(y, sigma=0.1, mask=None)
    work = grey.work(known, options)
    assert grey.work(unknown(y), options) == work + grey.estimate_work(known) > work
    assert grey.joint_options(known, options) is not None
    assert grey.joint_options(unknown(y), options) is None
    pixel = ExplainOptions.checked(y.shape, pixel=(0, 0), top=1)
    assert grey.explanation_work(unknown(y), pixel) > grey.explanation_work(known, pixel)
