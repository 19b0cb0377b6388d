"""MMSE and E-MMSE against their oracles, and what must hold of them."""

import math
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.memory import peak_beyond
from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, Posterior
from lemmse.estimator.whole_images import WholeImages
from tests.support.cases import SIGMAS, smooth
from tests.support.oracle import agreement, oracle
from tests.support.whole_oracle import emmse_oracle, mmse_oracle

CPU = torch.device("cpu")
EVERYTHING = Outputs(variance=True, ess=True, top=5)
BOTH = pytest.mark.parametrize("equivariant", [False, True], ids=["mmse", "e-mmse"])


def ask(whole: WholeImages, y, s, *, equivariant: bool, want: Outputs = EVERYTHING) -> Posterior:
    """The posterior of y with noise s, a number or a map, ∞ where nothing was observed."""
    precision = np.broadcast_to(1 / np.square(np.float64(s)), y.shape)
    return whole.sums(y, precision, SumSpec(outputs=want), equivariant=equivariant).posterior(y.size)


def stack(count: int, height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.stack([smooth(seed, height, width, channels) for seed in range(count)])


def noisy(clean: np.ndarray, s) -> np.ndarray:
    e = np.random.default_rng(7).standard_normal(clean.shape)
    return clean + np.where(np.isfinite(s), s, 0) * e


def translated(x: np.ndarray, row: int, column: int) -> np.ndarray:
    return np.roll(x, (-row, -column), axis=(-3, -2))


def check(posterior: Posterior, expected, shape, *, db: float = 80, slack: float = 1e-7) -> None:
    """Every map of a posterior over whole images is that of the oracle."""
    assert agreement(posterior.mean.numpy().reshape(shape), expected.image) >= db
    np.testing.assert_allclose(posterior.variance.numpy().reshape(shape), expected.variance, atol=slack)
    np.testing.assert_allclose(np.full(shape[:2], posterior.ess), expected.ess, rtol=100 * slack)
    np.testing.assert_allclose(
        np.full(shape[:2], posterior.log_density), expected.log_density, rtol=1e-9, atol=100 * slack
    )


SHAPES = {
    "square": (5, 5, 1),
    "even": (4, 6, 1),
    "colour": (3, 4, 3),
    "row": (1, 7, 2),
    "one pixel": (1, 1, 3),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@BOTH
@shapes
@pytest.mark.parametrize("sigma", SIGMAS)
def test_denoising_agrees_with_the_oracle(shape, sigma, equivariant):
    x = stack(4, *shape)
    s = np.full(shape, sigma)
    # A mixture of images, so that several take part also where there is little noise.
    y = noisy(0.5 * (x[0] + translated(x[0], 0, 1)) if equivariant else 0.5 * (x[0] + x[1]), s)
    solve = emmse_oracle if equivariant else mmse_oracle
    check(ask(WholeImages(x, x, CPU), y, sigma, equivariant=equivariant), solve(x, x, y, s), shape)


PRECISIONS = ["map", "mask", "mask of channels", "map and mask", "one pixel seen", "nothing seen"]


@BOTH
@pytest.mark.parametrize("kind", PRECISIONS)
@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_noise_maps_and_masks_agree_with_the_oracle(kind, sigma, equivariant):
    shape = (4, 5, 3)
    x, rng = stack(3, *shape), np.random.default_rng(3)
    s = sigma * (rng.uniform(0.3, 3, shape) if "map" in kind else np.ones(shape))
    if "mask" in kind:
        s[rng.random(shape if "channels" in kind else (4, 5)) < 0.4] = math.inf
    elif "seen" in kind:
        s[:] = math.inf
        s[1, 2] = sigma if "one" in kind else math.inf
    y = noisy(translated(x[1], 1, 2) if equivariant else x[1], s)
    expected = (emmse_oracle if equivariant else mmse_oracle)(x, x, y, s)
    y[np.isinf(s)] = np.nan
    check(ask(WholeImages(x, x, CPU), y, s, equivariant=equivariant), expected, shape)


def blur(x: np.ndarray) -> np.ndarray:
    return (0.5 * x + 0.3 * np.roll(x, 1, axis=-2) + 0.2 * np.roll(x, -1, axis=-3)).astype(np.float32)


def hole(x: np.ndarray) -> np.ndarray:
    return np.where(np.arange(x.shape[-2])[:, None] < 2, 0, x)


@BOTH
@pytest.mark.parametrize("measure", [blur, hole])
@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_forward_operator_changes_the_keys_and_not_the_targets(measure, sigma, equivariant):
    shape = (5, 4, 1)
    x = stack(4, *shape)
    a, s = measure(x), np.full(shape, sigma)
    y = noisy(a[2], s)
    solve = emmse_oracle if equivariant else mmse_oracle
    check(ask(WholeImages(x, a, CPU), y, sigma, equivariant=equivariant), solve(x, a, y, s), shape)


def diagonals(shape) -> dict[str, np.ndarray]:
    """Pre-inverses B = diag(b)."""
    hidden = np.random.default_rng(5).random((*shape[:2], 1)) < 0.3
    grid = np.indices(shape)[:2].sum(axis=0) % 2 == 0
    return {
        "mask": np.where(hidden, 0.0, np.ones(shape)),
        "grid": np.where(grid, 0.0, np.ones(shape)),
        "mask of channels": np.where(hidden & (np.arange(shape[2]) == 1), 0.0, np.ones(shape)),
        "everything masked": np.zeros(shape),
        "epsilon": np.where(hidden, 1e-3, np.ones(shape)),
        "half": np.where(hidden, 0.5, np.ones(shape)),
    }


@BOTH
@pytest.mark.parametrize("name", diagonals((4, 6, 2)))
@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_diagonal_pre_inverse_agrees_with_the_oracle(name, sigma, equivariant):
    shape = (4, 6, 2)
    x, b = stack(3, *shape), diagonals(shape)[name]
    # What a mask hides is not looked at, whatever it is.
    a, s = np.where(b == 1e-3, 0, x), np.full(shape, sigma)
    y = noisy(np.where(b == 1e-3, 0, 0.5 * (x[0] + translated(x[0], 1, 1))), s)
    whole = WholeImages(x, a, CPU, scale=b)
    if equivariant:
        expected = emmse_oracle(x, a, y, s, b)
    else:
        expected = mmse_oracle(x, a, y, np.where(b == 0, math.inf, s))
    # The ε-inverse weighs a pixel with up to 10⁶ / σ².
    check(ask(whole, y, sigma, equivariant=equivariant), expected, shape, slack=1e-6)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_equivariant_is_local_with_a_patch_of_the_whole_torus(sigma):
    x = stack(3, 5, 5)
    y = noisy(smooth(9, 5, 5, 1), sigma)
    check(ask(WholeImages(x, x, CPU), y, sigma, equivariant=True), oracle(x, y, sigma, 5), y.shape)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_heaviest_images_are_named(sigma):
    x = stack(8, 5, 4)
    y = noisy(0.5 * (x[3] + x[6]), sigma)
    share = mmse_oracle(x, x, y, np.full(y.shape, sigma)).weights[0, 0]
    posterior = ask(WholeImages(x, x, CPU), y, sigma, equivariant=False)
    assert posterior.top_key[0].tolist() == np.argsort(-share)[:5].tolist()
    np.testing.assert_allclose(posterior.top_weight[0], np.sort(share)[:-6:-1], rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_heaviest_translations_are_named_for_every_pixel(sigma):
    x = stack(3, 4, 5)
    y = noisy(smooth(9, 4, 5, 1), sigma)
    expected = emmse_oracle(x, x, y, np.full(y.shape, sigma))
    posterior = ask(WholeImages(x, x, CPU), y, sigma, equivariant=True)
    for row in range(4):
        for column in range(5):
            share = dict(zip(expected.ids, expected.weights[row, column], strict=True))
            heaviest = sorted(share.values(), reverse=True)[:5]
            np.testing.assert_allclose(posterior.top_weight[0], heaviest, rtol=1e-6)
            for key, weight in zip(posterior.top_key[0].tolist(), heaviest, strict=True):
                k, (i, j) = key // 20, divmod(key % 20, 5)
                assert share[k, (row + i) % 4, (column + j) % 5] == pytest.approx(weight, rel=1e-6)


def test_translations_that_the_mask_forbids_are_not_named():
    x = stack(1, 3, 3)
    b = np.ones((3, 3, 1))
    b[1, 1] = 0
    whole = WholeImages(x, x * b, CPU, scale=b)
    posterior = ask(whole, x[0] * b, 0.3, equivariant=True)
    assert posterior.top_key[0].tolist() == [0, -1, -1, -1, -1]
    assert posterior.top_weight[0].tolist() == [1, 0, 0, 0, 0]


@given(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), st.sampled_from([0.02, 0.3, 2.0]), st.booleans())
@settings(deadline=None, max_examples=30)
def test_translating_the_request_translates_the_result(shift, sigma, masked):
    whole = WholeImages(x := stack(4, 6, 7, 2), x, CPU)
    s = np.random.default_rng(1).uniform(sigma, 2 * sigma, (6, 7, 2))
    s[2:4, 1:3] = math.inf if masked else sigma
    y = noisy(smooth(9, 6, 7, 2), s)
    still = ask(whole, y, s, equivariant=True)
    moved = ask(whole, translated(y, *shift), translated(s, *shift), equivariant=True)
    for name in ("mean", "variance"):
        maps = [getattr(p, name).numpy().reshape(y.shape) for p in (still, moved)]
        np.testing.assert_allclose(maps[1], translated(maps[0], *shift), atol=1e-9)
    for name in ("ess", "log_density", "top_weight"):
        torch.testing.assert_close(getattr(moved, name), getattr(still, name), rtol=1e-8, atol=1e-8)


@given(st.sampled_from([1e-3, 0.1, 1.0]), st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_invertible_diagonal_changes_nothing_without_translations(sigma, seed):
    x = stack(5, 4, 4)
    b = np.random.default_rng(seed).uniform(0.1, 2, (4, 4, 1))
    y = noisy(x[seed % 5], sigma)
    aware, agnostic = (
        ask(WholeImages(x, x, CPU, scale=scale), y, sigma, equivariant=False) for scale in (b, None)
    )
    for name in ("mean", "variance", "ess", "log_density"):
        torch.testing.assert_close(getattr(aware, name), getattr(agnostic, name), rtol=0, atol=0)


@BOTH
def test_blocks_of_images_add_up(monkeypatch, equivariant):
    whole = WholeImages(x := stack(9, 4, 5), x, CPU)
    y = noisy(0.5 * (x[0] + x[8]), 0.1)
    once = ask(whole, y, 0.1, equivariant=equivariant)
    monkeypatch.setattr("lemmse.estimator.whole_images._BLOCK", 2 * y.size)
    blocks = ask(whole, y, 0.1, equivariant=equivariant)
    for name in ("mean", "variance", "ess", "log_density", "top_weight", "top_key"):
        torch.testing.assert_close(getattr(blocks, name), getattr(once, name), rtol=1e-9, atol=1e-9)


@BOTH
def test_nothing_seen_gives_the_prior_mean(equivariant):
    x = stack(4, 3, 5)
    whole = WholeImages(x, x, CPU)
    posterior = ask(whole, np.full((3, 5, 1), np.nan), math.inf, equivariant=equivariant)
    prior = np.broadcast_to(x.mean(), 15) if equivariant else x.mean(axis=0).ravel()
    np.testing.assert_allclose(posterior.mean[0], prior, atol=1e-6)
    assert posterior.ess.item() == pytest.approx(60 if equivariant else 4)
    assert posterior.log_density.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1.0])
def test_equal_keys_share_alike(sigma):
    x = np.concatenate([stack(2, 4, 6), stack(2, 4, 6)[:1], np.full((1, 4, 6, 1), 0.25, np.float32)])
    whole = WholeImages(x, x, CPU)
    if sigma < 1:
        assert ask(whole, x[0], sigma, equivariant=False).ess.item() == pytest.approx(2, rel=1e-9)
        assert ask(whole, x[3], sigma, equivariant=True).ess.item() == pytest.approx(24, rel=1e-2)
    weight = ask(whole, x[3], sigma, equivariant=True).top_weight[0]
    np.testing.assert_allclose(weight, weight[0].item(), rtol=1e-2)


@BOTH
def test_only_what_is_wanted_is_summed(equivariant):
    whole = WholeImages(x := stack(3, 4, 4), x, CPU)
    full = ask(whole, x[0], 0.3, equivariant=equivariant)
    lean = ask(whole, x[0], 0.3, equivariant=equivariant, want=Outputs())
    assert (lean.variance.shape, lean.ess.shape, lean.top_key.shape) == ((1, 0), (1, 0), (1, 0))
    torch.testing.assert_close(lean.mean, full.mean, rtol=0, atol=0)


@BOTH
def test_keys_are_counted(equivariant):
    whole = WholeImages(x := stack(3, 4, 5), x, CPU)
    sums = whole.sums(x[0], np.ones(x[0].shape), equivariant=equivariant)
    assert sums.keys_evaluated.tolist() == [60 if equivariant else 3]


@BOTH
def test_more_keys_asked_for_than_there_are(equivariant):
    whole = WholeImages(x := stack(1, 1, 2), x, CPU)
    key = ask(whole, x[0], 1.0, equivariant=equivariant).top_key[0].tolist()
    assert sorted(key) == ([-1] * 3 + [0, 1] if equivariant else [-1] * 4 + [0])


@BOTH
def test_another_size_is_refused(equivariant):
    whole = WholeImages(x := stack(2, 4, 5), x, CPU)
    message = r"^y: expected an image of shape \(4, 5, 1\), .* got \(5, 4, 1\); le-mmse takes any size$"
    with pytest.raises(InvalidArgument, match=message):
        whole.sums(np.zeros((5, 4, 1)), np.ones((5, 4, 1)), equivariant=equivariant)


@BOTH
def test_cancelling_stops_between_blocks(monkeypatch, equivariant):
    monkeypatch.setattr("lemmse.estimator.whole_images._BLOCK", 1)
    whole = WholeImages(x := stack(5, 3, 3), x, CPU)
    calls = []

    def cancelled() -> bool:
        calls.append(len(calls))
        return len(calls) > 2

    with pytest.raises(Cancelled):
        whole.sums(x[0], np.ones(x[0].shape), SumSpec(cancelled=cancelled), equivariant=equivariant)
    assert len(calls) == 3


@BOTH
@pytest.mark.skipif(sys.platform != "linux", reason="reads the Linux kernel's accounting")
def test_memory_beyond_the_images_is_bounded(equivariant):
    x = np.random.default_rng(0).random((6000, 32, 32, 3), np.float32)
    whole = WholeImages(x, x, CPU)
    work = partial(ask, whole, x[0].astype(np.float64), 0.3, equivariant=equivariant)
    assert peak_beyond(work) < 256 * 2**20
