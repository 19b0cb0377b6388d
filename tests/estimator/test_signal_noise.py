"""Poisson-Gaussian noise: its estimate, and the fixed point of noise maps beside the exact posterior."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import NoiseEstimate
from lemmse.estimator import Reconstructor
from lemmse.estimator.gain_estimate import SIGMAS, PatchDensities, most_likely_gain
from lemmse.estimator.signal_noise import settle
from lemmse.index import build, open_index
from lemmse.index.storage.picture_record import Pictures, Refinement
from tests.support.oracle import agreement, patch
from tests.support.problem_oracle import weighted_oracle
from tests.support.signal_oracle import settled_oracle

P = 3


def counted(x, gain: float, sigma: float, seed: int) -> np.ndarray:
    """A measurement of a clean image."""
    rng = np.random.default_rng(seed)
    return gain * rng.poisson(x / gain) + sigma * rng.standard_normal(x.shape)


def noisy(y, **noise) -> Measurement:
    return Measurement.checked(
        y, **{"sigma": "auto", "mask": None, "noise": "poisson-gaussian", "gain": "auto"} | noise
    )


def ramps(seed: int, size: int) -> np.ndarray:
    """An image from dark to bright, with a slow wave."""
    rng = np.random.default_rng(seed)
    r, c = np.mgrid[:size, :size] / size
    slope = np.cos(rng.uniform(0, 6)) * (r - 0.5) + np.sin(rng.uniform(0, 6)) * (c - 0.5)
    wave = 0.1 * np.sin(rng.uniform(2, 5) * (r + c) + 6 * rng.random())
    return np.clip(0.5 + 0.6 * slope + wave, 0.02, 1)[..., None]


FEW = [ramps(k, 8) for k in range(4)]


def reconstructor(folder, images, **options) -> Reconstructor:
    np.save(folder / "images.npy", np.stack(images))
    index = build([folder / "images.npy"], folder / "index", **{"patch_size": P} | options)
    return Reconstructor(open_index(index), device="cpu")


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Reconstructor:
    return reconstructor(tmp_path_factory.mktemp("grey"), [ramps(k, 24) for k in range(6)])


def gaussian_patches(gain: float, sigma: float):
    """The densities and means of flat patches with noise, of which none overlap."""
    rng = np.random.default_rng(1)
    mean = rng.uniform(0.02, 1, 400)
    squares = ((gain * mean + sigma**2) * rng.chisquare(25, 400))[:, None]
    table = -0.5 * squares / SIGMAS**2 - 25 * np.log(SIGMAS)
    centres = np.array([(0, 10 * i, 10 * j) for i in range(20) for j in range(20)])
    return squares[:, 0], PatchDensities(table), mean, centres


def test_densities_between_those_of_the_table():
    squares, densities, *_ = gaussian_patches(0.01, 0.1)
    sigma = np.random.default_rng(2).uniform(0.05, 0.4, (7, 400))
    exact = -0.5 * squares / sigma**2 - 25 * np.log(sigma)
    # The error of a cubic through four values: 3/128 h⁴ times the fourth derivative, at most that 2 h below.
    step = math.log(SIGMAS[1] / SIGMAS[0])
    most = 3 / 128 * step**4 * 8 * squares / sigma**2 * math.exp(4 * step)
    assert (np.abs(densities.at(np.log(sigma)) - exact) <= most).all()


@pytest.mark.parametrize(("gain", "sigma"), [(0.02, 0.1), (0.1, 0.02), (0.0, 0.1), (0.02, 0.0)])
def test_the_most_likely_gain(gain, sigma):
    _, densities, mean, centres = gaussian_patches(gain, sigma)
    found = most_likely_gain(densities, mean, centres, (1, 5, 5), 0.2)
    assert abs(found.gain - gain) <= 3 * max(found.gain_error, 0.002)
    assert abs(found.sigma[0] - sigma) <= 3 * max(found.sigma_error[0], 0.005)
    assert found.gain_error < max(0.2 * gain, 0.003)
    one = most_likely_gain(densities, mean, centres, (1, 5, 5), 0.2, gain=gain)
    assert (one.gain, one.gain_error) == (gain, 0)
    assert abs(one.sigma[0] - sigma) <= 3 * max(one.sigma_error[0], 0.005)
    other = most_likely_gain(densities, mean, centres, (1, 5, 5), 0.2, sigma=sigma)
    assert (other.sigma, other.sigma_error) == ((sigma,), (0,))
    assert abs(other.gain - gain) <= 3 * max(other.gain_error, 0.002)
    both = most_likely_gain(densities, mean, centres, (1, 5, 5), 0.2, gain=gain, sigma=sigma)
    assert (both.gain, both.gain_error, both.sigma, both.sigma_error) == (gain, 0, (sigma,), (0,))


def assert_variance(found, gain: float, sigma: float, mean: float) -> None:
    """Assert that the variance at an intensity is right within three standard errors of its two parts."""
    (dark,), (error,) = found.sigma, found.sigma_error
    off = found.gain * mean + dark**2 - (gain * mean + sigma**2)
    assert abs(off) < 3 * (found.gain_error * mean + (dark + error) ** 2 - dark**2)


def test_the_noise_of_an_image(grey):
    gain, sigma = 1 / 64, 0.03
    images = [ramps(20 + k, 32) for k in range(4)]
    found = [grey.estimate_noise(noisy(counted(x, gain, sigma, k))) for k, x in enumerate(images)]
    for x, one in zip(images, found, strict=True):
        assert abs(one.gain - gain) < 4 * one.gain_error < 4 * gain
        assert_variance(one, gain, sigma, x.mean())
    y = counted(images[0], gain, sigma, 0)
    mask = np.random.default_rng(5).random((32, 32)) < 0.95
    masked = grey.estimate_noise(noisy(np.where(mask[..., None], y, np.nan), mask=mask))
    assert_variance(masked, gain, sigma, images[0][mask].mean())


def test_dark_parts_without_counts_say_nothing(grey):
    x = ramps(20, 32)
    x[:, :16] = 1e-6
    found = grey.estimate_noise(noisy(counted(x, 1 / 20, 0.0, 0), sigma=0))
    assert abs(found.gain - 1 / 20) < 3 * found.gain_error < 0.5 / 20


def exact(training, y, gain: float, sigma: float) -> np.ndarray:
    """The posterior mean with the likelihood of scaled counts and Gaussian noise, by float64 loops."""
    keys = [patch(x, i, j, P) for x in training for i in range(x.shape[0]) for j in range(x.shape[1])]
    keys, centre = np.array(keys), P * P // 2
    counts = np.arange(int(4 / gain))
    log_factorial = np.array([math.lgamma(count + 1) for count in counts])
    image = np.empty(y.shape)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            log_w = np.zeros(len(keys))
            for k, u in enumerate(patch(y, i, j, P)):
                rate = keys[:, k, None] / gain
                log_p = (
                    counts * np.log(rate) - rate - log_factorial - 0.5 * ((u - gain * counts) / sigma) ** 2
                )
                log_w += np.logaddexp.reduce(log_p, axis=1)
            w = np.exp(log_w - log_w.max())
            image[i, j] = w @ keys[:, centre] / w.sum()
    return image


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Reconstructor:
    """Of the images `FEW`."""
    return reconstructor(tmp_path_factory.mktemp("small"), FEW, boundary="circular")


def test_the_more_gaussian_the_noise_the_nearer_is_the_exact_posterior(small):
    """It is nearer than with white noise, too. With no gain at all both are one."""
    sigma, last = 0.1, math.inf
    for gain in (1 / 4, 1 / 16, 1 / 64):
        away, white_away = [], []
        for seed in range(3):
            y = counted(ramps(9 + seed, 6), gain, sigma, seed)
            stated, truth = noisy(y, gain=gain, sigma=sigma), exact(FEW, y, gain, sigma)
            away.append(small.answer(stated, Options()).image - truth)
            white_away.append(small.answer(stated.with_mean_noise(), Options()).image - truth)
        off, white_off = (math.sqrt(np.square(one).mean()) for one in (away, white_away))
        assert off < min(white_off, last)
        last = off


@pytest.mark.parametrize(("gain", "sigma"), [(1 / 16, 0.05), (1 / 100, 0.02), (1e-9, 0.1)])
def test_the_answer_is_that_for_the_noise_at_itself(small, gain, sigma):
    y = counted(ramps(20, 6), gain, sigma, 0)
    stated = noisy(y, gain=gain, sigma=sigma)

    def expected(s):
        return weighted_oracle(FEW, y, s**-2.0, P)

    s = settled_oracle(y, gain, sigma, (P, P), "circular", lambda s: expected(s).image)
    answer = small.answer(stated, Options(maps=["variance", "ess"]))
    assert agreement(answer.image, expected(s).image) > 90
    np.testing.assert_allclose(answer.variance, expected(s).variance, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(answer.ess, expected(s).ess, rtol=1e-3)
    assert (answer.diagnostics.gain, answer.diagnostics.sigma) == (None, ())
    (heaviest,) = small.explain_pixel(stated, ExplainOptions(pixel=(3, 4), top=1)).contributors
    assert heaviest.weight == pytest.approx(expected(s).weights[3, 4].max(), rel=1e-3)


@pytest.mark.parametrize("estimator", ["le-mmse", "mmse"])
def test_the_map_is_that_of_an_answer_without_gaussians(grey, estimator):
    y = counted(ramps(20, 24), 1 / 100, 0.02, 0)
    stated = noisy(y, gain=1 / 100, sigma=0.02)
    options = Options(estimator=estimator, gaussian_share=0.3 if estimator == "le-mmse" else None)
    without = replace(options, gaussian_share=0.0)
    mapped = settle(stated, grey.index.manifest, lambda one: grey.answer(one, without).image)
    found, expected = (grey.answer(one, options).image for one in (stated, mapped))
    np.testing.assert_array_equal(found, expected)


def test_mmse_has_a_map_also_where_calibration_found_epll_best(grey):
    pictures = Pictures(1, (0.1,), (Refinement("epll", 0.02, 0.3),), (30.0,), (20.0,), (10.0,))
    index = replace(grey.index, manifest=replace(grey.index.manifest, pictures=pictures))
    stated = noisy(counted(ramps(20, 24), 1 / 100, 0.02, 0), gain=1 / 100, sigma=0.02)
    options = Options(estimator="mmse", quality="best")
    found, expected = (one.answer(stated, options) for one in (Reconstructor(index, device="cpu"), grey))
    np.testing.assert_array_equal(found.image, expected.image)


def test_a_derivative_is_that_at_the_noise_of_the_answer(grey):
    y = counted(ramps(20, 8), 1 / 100, 0.02, 0)
    stated, vector = noisy(y, gain=1 / 100, sigma=0.02), np.random.default_rng(7).standard_normal(y.shape)
    mapped = settle(stated, grey.index.manifest, lambda one: grey.answer(one, Options()).image)
    found, expected = (grey.differentiate(one, vector, Options()) for one in (stated, mapped))
    np.testing.assert_array_equal(found, expected)
    work = grey.derivative_work(mapped, Options()) + grey.work(stated, Options())
    assert grey.derivative_work(stated, Options()) == work


def test_an_estimate_of_no_gain_is_white_noise():
    found = noisy(np.zeros((8, 8))).with_noise(NoiseEstimate((0.1,), (0.01,), 0.0, 0.0))
    assert (found.gain, found.sigma) == (None, 0.1)


def test_an_answer_with_the_estimate(grey):
    y = counted(ramps(20, 32), 1 / 64, 0.03, 0)
    result = grey.answer(noisy(y), Options())
    found = grey.estimate_noise(noisy(y))
    assert (result.diagnostics.gain, result.diagnostics.sigma) == (found.gain, found.sigma)
    told = grey.answer(noisy(y, gain=found.gain, sigma=found.sigma[0]), Options())
    np.testing.assert_array_equal(result.image, told.image)
    half = grey.answer(noisy(y, gain=found.gain), Options()).diagnostics
    assert half.gain == found.gain
    assert half.sigma[0] == pytest.approx(found.sigma[0], rel=0.1)


def test_counts_with_an_offset(grey):
    gain, black, white = 1 / 50, 100, 4100
    x = ramps(20, 12)
    counts = np.rint(black + (white - black) * counted(x, gain, 0.0, 0)).astype(np.uint16)
    y = (counts.astype(np.float64) - black) / (white - black)
    options = Options(maps=["variance"])
    raw = grey.answer(noisy(counts, gain=gain, sigma=0, range=(black, white)), options)
    plain = grey.answer(noisy(y, gain=gain, sigma=0), options)
    np.testing.assert_allclose(raw.image, black + (white - black) * plain.image, atol=0.1)
    np.testing.assert_allclose(raw.variance, (white - black) ** 2 * plain.variance, rtol=1e-3)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_only_observed_pixels_count(grey, shape):
    y = counted(ramps(20, 8), 0.02, 0.02, 0)
    mask = np.random.default_rng(4).random((8, 8)) < 0.8
    hidden = noisy(np.where(mask[..., None], y, 1e5), gain=0.02, sigma=0.02, mask=mask.reshape(shape))
    other = noisy(np.where(mask[..., None], y, np.nan), gain=0.02, sigma=0.02, mask=mask)
    np.testing.assert_array_equal(grey.answer(hidden, Options()).image, grey.answer(other, Options()).image)


def test_dark_images_have_answers(grey):
    image = grey.answer(noisy(np.zeros((8, 8)), gain=0.01, sigma=0), Options()).image
    assert np.isfinite(image).all()
    assert np.isfinite(grey.answer(noisy(np.zeros((8, 8))), Options()).image).all()


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ({"gain": 0}, "gain: expected a number > 0, got 0"),
        ({"gain": -1}, "gain: expected a number in"),
        ({"gain": math.nan}, "gain: expected a number in"),
        ({"gain": "much"}, "gain: expected a number or auto for poisson-gaussian noise, got 'much'"),
        ({"gain": None}, "gain: expected a number or auto for poisson-gaussian noise, got None"),
        ({"sigma": np.ones((8, 8))}, "sigma: expected a number or auto for poisson-gaussian noise"),
        ({"sigma": -0.1}, "sigma: expected a number in"),
        ({"noise": "gaussian", "gain": 1, "sigma": 1}, "gain: expected noise poisson-gaussian with it"),
        ({"noise": "poisson"}, "noise: expected one of gaussian, poisson-gaussian, got 'poisson'"),
        ({"range": (1, 1)}, "range: expected finite low < high, got 1 and 1"),
        ({"range": (0, math.inf)}, "range: expected finite low < high, got 0 and inf"),
        ({"range": 5}, "range: expected two numbers"),
        ({"range": (1, 2, 3)}, "range: expected two numbers"),
    ],
)
def test_what_is_refused(noise, words):
    with pytest.raises(InvalidArgument, match=words):
        noisy(np.zeros((8, 8)), **noise)


def test_indexes_without_maps_are_refused(tmp_path):
    offset = reconstructor(tmp_path, [ramps(k, 12) for k in range(3)], equivariance="offset")
    for noise in ({}, {"gain": 0.1, "sigma": 0.1}):
        with pytest.raises(InvalidArgument, match="noise: poisson-gaussian noise needs an index of equivari"):
            offset.answer(noisy(np.zeros((8, 8)), **noise), Options())


def test_it_can_be_cancelled_and_says_what_it_costs(grey):
    y = counted(ramps(20, 12), 0.05, 0.0, 0)
    with pytest.raises(Cancelled):
        grey.answer(noisy(y), Options(), lambda: True)
    known, white = noisy(y, gain=0.1, sigma=0), Measurement.checked(y, sigma=0.1, mask=None)
    assert grey.work(noisy(y), Options()) > grey.work(known, Options()) > 2 * grey.work(white, Options())
    one = ExplainOptions(pixel=(0, 0), top=1)
    assert grey.explanation_work(known, one) > grey.explanation_work(white, one)
    assert grey.joint_options(known, Options()) is None
