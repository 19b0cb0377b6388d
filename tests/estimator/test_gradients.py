"""The derivative of a reconstruction times a vector: that of the definition, and of the models."""

from threading import Event

import numpy as np
import pytest

from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.gradient_oracle import vjp_oracle
from tests.support.problem_oracle import problem_oracle, weighted_oracle
from tests.support.quality_oracle import quality_oracle

RNG = np.random.default_rng(11)
COLOURS = [smooth(seed, 6, 7, 3) for seed in range(3)]
GREYS = [smooth(seed, 6, 5, 1) for seed in range(4)]
STEP = 1e-5
"""Of finite differences: their error is about its square, and the oracle's rounding over it."""


def reconstructor_of(folder, training, **options) -> Reconstructor:
    np.save(folder / "x.npy", np.stack(training))
    return Reconstructor(open_index(build([folder / "x.npy"], folder / "index", **options)), device="cpu")


@pytest.fixture(scope="module")
def reconstructor(tmp_path_factory):
    """Returns the reconstructor of an index, each built once."""
    known = {}

    def of(training, **options) -> Reconstructor:
        key = training[0].shape, *sorted(options.items())
        if key not in known:
            known[key] = reconstructor_of(tmp_path_factory.mktemp("index"), training, **options)
        return known[key]

    return of


def measurement(shape, sigma):
    return smooth(50, *shape).astype(np.float64) + sigma * RNG.standard_normal(shape)


def differentiate(lemmse, y, vector, sigma, mask=None, **options):
    return lemmse.differentiate(Measurement.checked(y, sigma=sigma, mask=mask), vector, Options(**options))


def slope(image, y, vector, direction):
    """The derivative of Σ vector · image(y) along a direction, by central differences."""
    there, back = (np.sum(vector * image(y + sign * STEP * direction)) for sign in (1, -1))
    return (there - back) / (2 * STEP)


@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
@pytest.mark.parametrize("boundary", ["circular", "reflect", "valid"])
@pytest.mark.parametrize(("training", "p"), [(GREYS, 1), (COLOURS, 3), (GREYS, 4)], ids=["1", "3", "4"])
def test_is_the_covariance_of_the_definition(reconstructor, training, p, boundary, aggregate):
    lemmse = reconstructor(training, patch_size=p, boundary=boundary)
    for sigma in (0.02, 0.1, 0.5):
        y = measurement((4, 5, training[0].shape[2]), sigma)
        vector = RNG.standard_normal(y.shape)
        found = differentiate(lemmse, y, vector, sigma, aggregate=aggregate)
        precision = np.full(y.shape, 1 / sigma**2)
        expected = vjp_oracle(training, y, precision, vector, p, aggregate=aggregate, boundary=boundary)
        assert found.dtype == np.float32
        slack = 1e-5 + 2e-7 * p**2 / sigma**2  # by which float32 rounds log w
        np.testing.assert_allclose(found, expected, rtol=slack, atol=slack * np.abs(expected).max())


def test_between_two_keys_at_very_low_noise(tmp_path):
    """There float32 does not resolve the weights, and the derivative is large."""
    steps = np.array([0, 51, 52, 255])
    lemmse = reconstructor_of(tmp_path, list((steps / 255).reshape(4, 1, 1, 1)), patch_size=1)
    sigma, y = 5e-4, np.array([[51.47]]) / 255
    apart = 1 / 255
    odds = np.exp(-((y - 51 / 255) ** 2 - (y - 52 / 255) ** 2) / (2 * sigma**2))
    expected = apart**2 / sigma**2 * odds / (1 + odds) ** 2
    found = differentiate(lemmse, y, np.ones((1, 1)), sigma)
    assert expected > 2
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
@pytest.mark.parametrize("bandwidth", [0.0, 0.05])
def test_noise_maps_and_masks(reconstructor, aggregate, bandwidth):
    lemmse = reconstructor(COLOURS, patch_size=3)
    y = measurement((5, 4, 3), 0.1)
    sigma, mask = 0.05 + 0.3 * RNG.random(y.shape), RNG.random(y.shape) < 0.6
    mask[:3, :3] = False  # around (1, 1) nothing was observed
    vector, direction = RNG.standard_normal((2, *y.shape))
    options = {"aggregate": aggregate, "bandwidth": bandwidth}
    found = differentiate(lemmse, np.where(mask, y, np.nan), vector, sigma, mask, **options)
    assert (found[~mask] == 0).all()
    if not bandwidth:
        precision = np.where(mask, 1 / sigma**2, 0.0)
        expected = vjp_oracle(COLOURS, y, precision, vector, 3, aggregate=aggregate)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    noise = np.where(mask, sigma, np.inf)
    expected = slope(lambda x: quality_oracle(COLOURS, x, noise, 3, **options).image, y, vector, direction)
    np.testing.assert_allclose(np.sum(found * direction), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
@pytest.mark.parametrize(
    ("bandwidth", "gaussian_share"), [(0.05, 0.0), (0.0, 0.3), (0.05, 0.3), (0.0, 1.0), (0.05, 1.0)]
)
@pytest.mark.parametrize("equivariance", ["none", "offset"])
def test_is_the_slope_of_the_model(reconstructor, equivariance, bandwidth, gaussian_share, aggregate):
    lemmse = reconstructor(COLOURS, patch_size=3, equivariance=equivariance)
    sigma, y = 0.06, measurement((3, 3, 3), 0.06)
    vector, direction = RNG.standard_normal((2, *y.shape))
    options = {"aggregate": aggregate, "bandwidth": bandwidth, "gaussian_share": gaussian_share}
    model = {"mixture": lemmse.index.mixture, "equivariance": equivariance, **options}
    noise = np.full(y.shape, sigma)
    expected = slope(lambda x: quality_oracle(COLOURS, x, noise, 3, **model).image, y, vector, direction)
    found = differentiate(lemmse, y, vector, sigma, **options)
    np.testing.assert_allclose(np.sum(found * direction), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("gaussian_share", [0.3, 1.0])
def test_a_share_of_gaussians_with_a_noise_map(reconstructor, gaussian_share):
    lemmse = reconstructor(COLOURS, patch_size=3)
    y = measurement((3, 4, 3), 0.1)
    noise = np.where(RNG.random(y.shape) < 0.7, 0.05 + 0.3 * RNG.random(y.shape), np.inf)
    vector, direction = RNG.standard_normal((2, *y.shape))
    options = {"aggregate": "overlap", "bandwidth": 0.02, "gaussian_share": gaussian_share}
    model = {"mixture": lemmse.index.mixture, **options}
    expected = slope(lambda x: quality_oracle(COLOURS, x, noise, 3, **model).image, y, vector, direction)
    seen = np.isfinite(noise)
    found = differentiate(lemmse, y, vector, np.where(seen, noise, 1.0), seen, **options)
    np.testing.assert_allclose(np.sum(found * direction), expected, rtol=1e-3, atol=1e-3)


def test_the_oracle_is_the_slope_of_the_oracle():
    """Its dense formula against the definition of the estimator, at mirrored borders and with a noise map."""
    y = measurement(GREYS[0].shape, 0.2)
    vector, direction = RNG.standard_normal((2, *y.shape))
    identity, precision = np.eye(y.size), np.full(y.shape, 1 / 0.2**2)
    for boundary in ("circular", "reflect", "valid"):
        product = vjp_oracle(GREYS, y, precision, vector, 3, boundary=boundary)
        expected = slope(
            lambda x: problem_oracle(GREYS, x, 0.2, 3, identity, identity, boundary).image,  # noqa: B023
            y,
            vector,
            direction,
        )
        np.testing.assert_allclose(np.sum(product * direction), expected, rtol=1e-6)
    precision = precision * (0.2 + RNG.random(y.shape)) * (RNG.random(y.shape) < 0.8)
    expected = slope(lambda x: weighted_oracle(GREYS, x, precision, 3).image, y, vector, direction)
    product = vjp_oracle(GREYS, y, precision, vector, 3)
    np.testing.assert_allclose(np.sum(product * direction), expected, rtol=1e-6)


def test_equal_keys_count_each(tmp_path):
    training = [COLOURS[0], COLOURS[0], COLOURS[1]]
    lemmse = reconstructor_of(tmp_path, training, patch_size=3)
    assert lemmse.index.manifest.distinct < lemmse.index.manifest.keys
    y = measurement((4, 4, 3), 0.2)
    vector = RNG.standard_normal(y.shape)
    expected = vjp_oracle(training, y, np.full(y.shape, 25.0), vector, 3)
    np.testing.assert_allclose(differentiate(lemmse, y, vector, 0.2), expected, rtol=1e-4, atol=1e-5)


def test_tiles_and_blocks_merge(tmp_path, monkeypatch):
    monkeypatch.setattr("lemmse.estimator.keys.TILE", 7)
    monkeypatch.setattr("lemmse.estimator.gradients._BLOCK", 6)
    monkeypatch.setattr("lemmse.estimator.exact.query_block", lambda device: 4)
    lemmse = reconstructor_of(tmp_path, COLOURS, patch_size=3)
    y = measurement((4, 4, 3), 0.1)
    y[0, 0] = 300.0  # sharp: float32 does not resolve its weights
    vector = RNG.standard_normal(y.shape)
    for aggregate in ("centre", "overlap"):
        expected = vjp_oracle(COLOURS, y, np.full(y.shape, 100.0), vector, 3, aggregate=aggregate)
        found = differentiate(lemmse, y, vector, 0.1, aggregate=aggregate)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_is_linear_in_vectors_of_any_size(reconstructor, size):
    lemmse = reconstructor(GREYS, patch_size=3)
    y = measurement((4, 4, 1), 0.1)[..., 0]
    vector = RNG.standard_normal(y.shape)
    vector /= np.abs(vector).max()
    one, other = (differentiate(lemmse, y, scale * vector, 0.1) for scale in (1.0, size))
    np.testing.assert_allclose(other, size * one, rtol=1e-5)
    assert (differentiate(lemmse, y, np.zeros_like(y), 0.1) == 0).all()


@pytest.mark.parametrize("options", [{}, {"gaussian_share": 1.0}, {"gaussian_share": 0.5}])
def test_can_be_cancelled(reconstructor, options):
    lemmse = reconstructor(GREYS, patch_size=3)
    y = measurement((4, 4, 1), 0.1)
    asked = Event()

    def cancelled():
        asked.set()
        return True

    with pytest.raises(Cancelled):
        lemmse.differentiate(Measurement.checked(y, sigma=0.1, mask=None), y, Options(**options), cancelled)
    assert asked.is_set()


@pytest.mark.parametrize(
    "problem",
    [
        {"physics": "blur:gaussian:1.0", "pre_inverse": "wiener:0.1"},
        {"physics": "blur:gaussian:1.0"},
        {"physics": "inpaint:center:2", "pre_inverse": "mask"},
    ],
)
def test_other_problems_are_refused(tmp_path, problem):
    lemmse = reconstructor_of(tmp_path, GREYS, patch_size=3, **problem)
    y = np.zeros(GREYS[0].shape)
    with pytest.raises(
        InvalidArgument, match=r"^vector: the derivative of a reconstruction needs an index of"
    ):
        differentiate(lemmse, y, y, 0.1)
