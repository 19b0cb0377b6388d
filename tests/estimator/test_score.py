"""The error to expect without the truth, against derivatives of the answer itself and against the truth."""

import math

import numpy as np
import pytest

from lemmse.estimator import Reconstructor
from lemmse.estimator.score import _trust, read_once
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.oracle import correlation

TRAINING = [smooth(k, 8, 8, 1) for k in range(4)]
SIGMA = 0.3


def reconstructor(folder, **options) -> Reconstructor:
    np.save(folder / "images.npy", np.stack(TRAINING))
    index = build([folder / "images.npy"], folder / "index", **{"patch_size": 3} | options)
    return Reconstructor(open_index(index), device="cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Reconstructor:
    return reconstructor(tmp_path_factory.mktemp("plain"))


def derivatives(answer, y) -> np.ndarray:
    """∂x̂_i/∂y_i by central differences."""
    step, found = 0.02, np.empty(y.shape)
    for i in np.ndindex(y.shape):
        moved = np.zeros(y.shape)
        moved[i] = step
        found[i] = (float(answer(y + moved).image[i]) - float(answer(y - moved).image[i])) / (2 * step)
    return found


POWER = np.ones((8, 8))
POWER[:, 0] += 20
POWER /= POWER.mean()


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Reconstructor:
    """An index of noise that is mostly equal along each row."""
    folder = tmp_path_factory.mktemp("coloured")
    np.save(folder / "noise.npy", POWER)
    return reconstructor(folder, noise=folder / "noise.npy")


@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
def test_misfit_under_correlated_noise(coloured, aggregate):
    """The response of a pixel is its derivative along the covariance of its noise with that of all pixels."""
    rng, step = np.random.default_rng(5), 0.02
    y = smooth(50, 8, 8, 1) + SIGMA * coloured.index.problem.sample_noise((8, 8, 1), rng)
    asked = {"sigma": SIGMA, "mode": "exact", "maps": ["variance"], "aggregate": aggregate}
    result = coloured.reconstruct(y, **asked)
    terms = np.square(result.image - y) - SIGMA**2 - result.variance
    rho = np.array([[correlation(POWER, (i, j)) for j in range(8)] for i in range(8)])
    for i, j, _ in np.ndindex(y.shape):
        along = step * np.roll(rho, (i, j), (0, 1))[..., None]
        up, down = (float(coloured.reconstruct(y + d, **asked).image[i, j, 0]) for d in (along, -along))
        terms[i, j] += 2 * SIGMA**2 * (up - down) / (2 * step)
    assert result.diagnostics.misfit == pytest.approx(float(terms.mean()), abs=2e-4)


def expected_misfit(answer, y, s, counted) -> float:
    result = answer(y)
    s2 = np.square(s) * np.ones(y.shape)
    terms = np.square(result.image - y) - s2 + 2 * s2 * derivatives(answer, y) - result.variance
    return float(terms[counted].mean())


S_MAP = SIGMA * np.random.default_rng(1).uniform(0.7, 1.4, (8, 8))
MASK = np.random.default_rng(2).random((8, 8)) < 0.7
ASKED = {
    "centre": {},
    "overlap": {"aggregate": "overlap"},
    "prior": {"bandwidth": 0.1, "gaussian_share": 0.3},
    "overlap and prior": {"aggregate": "overlap", "bandwidth": 0.1, "gaussian_share": 0.3},
    "noise map": {"sigma": S_MAP},
    "mask": {"mask": MASK},
    "mmse": {"estimator": "mmse"},
    "e-mmse": {"estimator": "e-mmse"},
    "hybrid": {"mode": "hybrid", "accuracy_db": 100},
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_misfit_is_that_of_the_derivatives(plain, asked):
    y = smooth(50, 8, 8, 1)[..., 0] + SIGMA * np.random.default_rng(3).standard_normal((8, 8))
    asked = {"sigma": SIGMA, "mode": "exact", "maps": ["variance"]} | asked
    if asked.get("estimator"):
        asked["mode"] = "auto"
    counted = asked.get("mask", np.ones(y.shape, bool))
    expected = expected_misfit(lambda z: plain.reconstruct(z, **asked), y, asked["sigma"], counted)
    found = plain.reconstruct(y, **asked).diagnostics
    assert found.misfit == pytest.approx(expected, abs=2e-4)
    assert found.expected_psnr_db is not None


@pytest.mark.parametrize("asked", [{}, {"aggregate": "overlap"}], ids=["centre", "overlap"])
@pytest.mark.parametrize(
    "options", [{"boundary": "reflect"}, {"equivariance": "offset"}], ids=["reflect", "offset"]
)
def test_other_indexes(tmp_path, options, asked):
    other = reconstructor(tmp_path, **options)
    y = smooth(50, 8, 8, 1)[..., 0] + SIGMA * np.random.default_rng(3).standard_normal((8, 8))
    asked = {"sigma": SIGMA, "mode": "exact", "maps": ["variance"]} | asked
    once = read_once((8, 8), (3, 3), other.index.manifest.boundary)
    assert once.all() == ("boundary" not in options)
    expected = expected_misfit(lambda z: other.reconstruct(z, **asked), y, SIGMA, once)
    assert other.reconstruct(y, **asked).diagnostics.misfit == pytest.approx(expected, abs=2e-4)


def test_which_pixels_a_patch_reads_twice():
    for length in range(1, 9):
        for p in range(1, 8):
            for boundary in ("circular", "reflect", "valid"):
                rows = np.arange(length)[:, None] + np.arange(p) - p // 2
                period = max(2 * (length - 1), 1)
                mirrored = np.minimum(rows % period, period - rows % period)
                read = rows % length if boundary == "circular" else mirrored
                twice = {row for window in read.tolist() for row in window if window.count(row) > 1}
                expected = [row not in twice for row in range(length)]
                assert read_once((length, 1), (p, p), boundary)[:, 0].tolist() == (
                    expected if p == 1 else [False] * length
                )
                assert read_once((length, 20), (p, p), boundary)[:, 10].tolist() == expected


@pytest.mark.parametrize("index", ["plain", "coloured"])
@pytest.mark.parametrize("inside", [True, False])
def test_the_error_to_expect_is_that_made_in_the_mean(request, index, inside):
    """Of images of the training set, the misfit is 0 in the mean; of others it is not."""
    plain = request.getfixturevalue(index)
    rng, rows, sigma = np.random.default_rng(4), [], SIGMA if inside else 0.05
    for k in range(150):
        x = (
            np.roll(TRAINING[k % 4], rng.integers(8, size=2), axis=(0, 1))
            if inside
            else smooth(60 + k, 8, 8, 1)
        )
        noise = plain.index.problem.sample_noise(x.shape, rng)
        result = plain.reconstruct(x + sigma * noise, sigma=sigma, maps=["variance"])
        misfit, error = result.diagnostics.misfit, float(np.square(result.image - x).mean())
        rows.append((float(result.variance.mean()) + misfit - error, misfit))
    off, misfit = np.array(rows).T
    assert abs(off.mean()) < 4 * off.std() / math.sqrt(len(off))
    assert (abs(misfit.mean()) < 4 * misfit.std() / math.sqrt(len(off))) == inside


def test_how_far_a_misfit_is_trusted():
    assert _trust(1e-3, 1e-3, 0.0) == 1.0
    assert _trust(1e-3, -1e-3, 3e-4) == pytest.approx(0.5)
    assert _trust(1e-9, 1e-3, 1e-5) == pytest.approx(1.0, abs=1e-3)  # overconfident, and certainly wrong
    assert _trust(1e-3, -1e-2, 1e-2) < 1e-2
    assert _trust(0.0, -1e-3, 1e-4) == 0.0


def test_the_variance_is_not_returned_unasked(plain):
    result = plain.reconstruct(smooth(50, 6, 6, 1), sigma=0.1)
    assert result.variance is None
    assert result.diagnostics.misfit is not None


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"physics": "blur:gaussian:0.6"}, {"maps": ["variance"]}),
        ({}, {"aggregate": "overlap"}),
        ({"patch_size": 9}, {}),
        ({}, {"mask": np.zeros((8, 8))}),
    ],
)
def test_where_it_is_not_known(tmp_path, options, asked):
    other = reconstructor(tmp_path, **options)
    diagnostics = other.reconstruct(smooth(50, 8, 8, 1), sigma=0.1, **asked).diagnostics
    assert (diagnostics.expected_psnr_db, diagnostics.misfit) == (None, None)
