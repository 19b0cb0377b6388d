"""One suite for all modes: each must give the posterior over all keys, as the oracle does."""

import numpy as np
import pytest

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator import Reconstructor
from tests.support.cases import CASES, SIGMAS, Case
from tests.support.oracle import agreement

ALL_KEYS = 10**6

MODES = {
    "exact": {"mode": "exact"},
    "auto": {"mode": "auto"},
    "topk of all": {"mode": "topk", "k": ALL_KEYS},
    "topk of all, one cell asked": {"mode": "topk", "k": ALL_KEYS, "nprobe": 1},
}
# As near as hybrid gets. Its maps are tested in test_hybrid.py, where every key is summed.
HYBRID = {"hybrid": {"mode": "hybrid", "accuracy_db": 120}}

pytestmark = pytest.mark.usefixtures("topk_is_searched")


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="module")
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def reconstructor(case, made_once) -> Reconstructor:
    return Reconstructor(case.built(made_once))


@pytest.fixture(params=(MODES | HYBRID).values(), ids=(MODES | HYBRID).keys())
def options(request) -> dict:
    return request.param


@pytest.mark.parametrize("sigma", SIGMAS)
def test_mean_agrees_with_the_oracle(case, reconstructor, options, sigma):
    result = reconstructor.reconstruct(case.measurement(sigma), sigma=sigma, **options)
    assert agreement(result.image, case.expected(sigma).image) >= (80 if sigma >= 0.01 else 60)


@pytest.mark.parametrize("options", MODES.values(), ids=MODES.keys())
@pytest.mark.parametrize("sigma", SIGMAS)
def test_maps_agree_with_the_oracle(case, reconstructor, options, sigma):
    result = reconstructor.reconstruct(
        case.measurement(sigma), sigma=sigma, maps=("variance", "ess", "log_density"), **options
    )
    expected = case.expected(sigma)
    # The rounding of a key in float32 moves log w by about 10⁻⁷ / σ², at most.
    slack = 1e-5 + 2e-7 / sigma**2
    np.testing.assert_allclose(result.variance, expected.variance, rtol=10 * slack, atol=1e-6)
    np.testing.assert_allclose(result.ess, expected.ess, rtol=10 * slack)
    np.testing.assert_allclose(result.log_density, expected.log_density, rtol=1e-5, atol=10 * slack)


def test_shapes_and_types(case, reconstructor, options):
    y = case.measurement(0.1)
    result = reconstructor.reconstruct(y, sigma=0.1, maps=("variance", "ess"), **options)
    assert result.image.shape == result.variance.shape == y.shape
    assert result.ess.shape == y.shape[:2]
    assert result.log_density is None
    assert {a.dtype for a in (result.image, result.variance, result.ess)} == {np.dtype(np.float32)}


def test_only_greyscale_needs_no_channel_axis(case, reconstructor, options):
    y = case.measurement(0.1)
    if y.shape[2] == 1:
        flat = reconstructor.reconstruct(y[:, :, 0], sigma=0.1, maps=("variance",), **options)
        full = reconstructor.reconstruct(y, sigma=0.1, maps=("variance",), **options)
        np.testing.assert_array_equal(flat.image, full.image[:, :, 0])
        np.testing.assert_array_equal(flat.variance, full.variance[:, :, 0])
    else:
        with pytest.raises(InvalidArgument, match=rf"expected an image of shape \(H, W, {y.shape[2]}\)"):
            reconstructor.reconstruct(y[:, :, 0], sigma=0.1, **options)


def test_explain_names_the_heaviest_keys(case, reconstructor):
    sigma, pixel = 0.3, (0, 1)
    expected = case.expected(sigma)
    weights = dict(zip(expected.ids, expected.weights[pixel], strict=True))
    explanation = reconstructor.explain(case.measurement(sigma), sigma=sigma, pixel=pixel, top=7)
    named = explanation.contributors
    assert len(named) == min(7, len(weights))
    np.testing.assert_allclose(
        [c.weight for c in named], sorted(weights.values(), reverse=True)[: len(named)], rtol=1e-4
    )
    for c in named:
        assert c.weight == pytest.approx(weights[c.image, c.row, c.column], rel=1e-4)
        np.testing.assert_array_equal(c.value, case.training[c.image][c.row, c.column])
        assert c.source == f"{c.image}.npy[0]"
