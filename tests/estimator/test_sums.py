"""The sums and their merge: properties that hold for every set of keys."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract.errors import Cancelled
from lemmse.estimator import MEAN_ONLY, Keys, Outputs, PosteriorSums, Queries, SumSpec, exact_sums

EVERYTHING = Outputs(variance=True, ess=True, top=3)
CPU = torch.device("cpu")


def keys_of(v, t, tile=1024) -> Keys:
    one = np.ones(len(v), np.int64)
    return Keys.of(np.float32(v), one, np.float32(t), strata=[0, len(v)], device=CPU, tile=tile)


def exact(keys, u, sigma, want=MEAN_ONLY) -> PosteriorSums:
    return exact_sums(keys, Queries.white(u, sigma), SumSpec(outputs=want))


@st.composite
def problems(draw):
    """Keys, targets, queries and σ; coarse values, so that ties are common."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m, q = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    p, t = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    sigma = draw(st.sampled_from([0.01, 0.1, 0.5, 1.0, 10.0]))
    v = rng.integers(0, 5, (m, p)) / 4
    return v, rng.random((m, t)), torch.as_tensor(rng.random((q, p)), dtype=torch.float32), sigma


def same(a: PosteriorSums, b: PosteriorSums, t_length: int, u: torch.Tensor, sigma: float) -> None:
    """Equal but for rounding: float32 moves ‖u − v‖² by about 10⁻⁷ P, and log w by that over σ²."""
    slack = 1e-5 + 1e-7 * (1 + u.shape[1]) / sigma**2
    x, y = a.posterior(t_length), b.posterior(t_length)
    for name in ("mean", "variance", "ess", "log_density", "top_weight"):
        torch.testing.assert_close(
            getattr(x, name), getattr(y, name), rtol=4 * slack, atol=4 * slack, msg=name
        )
    assert torch.equal(a.keys_evaluated, b.keys_evaluated)


def parts_of(v, t, u, sigma, cuts) -> list[PosteriorSums]:
    """The sums over disjoint sets of the keys."""
    edges = sorted({0, len(v), *(cut % (len(v) + 1) for cut in cuts)})
    return [exact(keys_of(v[i:j], t[i:j]), u, sigma, EVERYTHING) for i, j in pairwise(edges)]


@given(problems(), st.lists(st.integers(0, 1000), max_size=4), st.randoms())
@settings(deadline=None, max_examples=60)
def test_merge_in_any_grouping_and_order_gives_the_whole(problem, cuts, random):
    v, t, u, sigma = problem
    whole = exact(keys_of(v, t), u, sigma, EVERYTHING)
    parts = parts_of(v, t, u, sigma, cuts)
    random.shuffle(parts)
    while len(parts) > 1:
        i = random.randrange(len(parts) - 1)
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    same(
        PosteriorSums.empty(len(u), t.shape[1], 0, EVERYTHING, CPU).merge(parts[0]),
        whole,
        t.shape[1],
        u,
        sigma,
    )


@given(problems(), st.integers(1, 50))
@settings(deadline=None, max_examples=40)
def test_tile_size_does_not_matter(problem, tile):
    v, t, u, sigma = problem
    same(
        exact(keys_of(v, t, tile), u, sigma, EVERYTHING),
        exact(keys_of(v, t), u, sigma, EVERYTHING),
        t.shape[1],
        u,
        sigma,
    )


@given(problems())
@settings(deadline=None, max_examples=40)
def test_mean_lies_in_the_hull_of_the_targets(problem):
    v, t, u, sigma = problem
    posterior = exact(keys_of(v, t), u, sigma, EVERYTHING).posterior(t.shape[1])
    slack = 1e-6
    assert (posterior.mean.numpy() >= t.min(axis=0) - slack).all()
    assert (posterior.mean.numpy() <= t.max(axis=0) + slack).all()
    assert (posterior.variance.numpy() <= (np.ptp(t, axis=0) / 2) ** 2 + slack).all()
    assert (posterior.ess.numpy() >= 1 - slack).all()
    assert (posterior.ess.numpy() <= len(v) * (1 + slack)).all()


@given(problems())
@settings(deadline=None, max_examples=40)
def test_large_sigma_gives_the_mean_of_all_targets(problem):
    v, t, u, _ = problem
    posterior = exact(keys_of(v, t), u, 1e5, EVERYTHING).posterior(t.shape[1])
    np.testing.assert_allclose(
        posterior.mean, np.broadcast_to(t.mean(axis=0), posterior.mean.shape), atol=1e-6
    )
    np.testing.assert_allclose(posterior.variance[0], t.var(axis=0), atol=1e-6)
    np.testing.assert_allclose(posterior.ess, len(v), rtol=1e-5)


@given(problems())
@settings(deadline=None, max_examples=40)
def test_small_sigma_gives_the_mean_of_the_nearest_keys(problem):
    v, t, _, _ = problem
    u = torch.as_tensor(v[:1], dtype=torch.float32)
    posterior = exact(keys_of(v, t), u, 1e-5, EVERYTHING).posterior(t.shape[1])
    equal = (v == v[0]).all(axis=1)
    np.testing.assert_allclose(posterior.mean[0], t[equal].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(posterior.ess[0, 0], equal.sum(), rtol=1e-6)


def test_key_that_stands_for_several_counts_as_often():
    v, t = np.array([[0.0], [1.0]]), np.array([[0.2], [0.8], [0.1], [0.3]])
    u = torch.tensor([[0.4]])
    keys = Keys.of(np.float32(v), np.array([1, 3]), np.float32(t), strata=[0, 2], device=CPU)
    assert keys.count == 2
    repeated = exact(keys_of(v[[0, 1, 1, 1]], t), u, 0.5, Outputs(variance=True, ess=True))
    once = exact(keys, u, 0.5, Outputs(variance=True, ess=True))
    for name in ("mean", "variance", "ess", "log_density"):
        torch.testing.assert_close(
            getattr(once.posterior(1), name),
            getattr(repeated.posterior(1), name),
            rtol=1e-6,
            atol=1e-7,
        )


def test_targets_may_be_whole_patches():
    rng = np.random.default_rng(0)
    v = rng.random((30, 9))
    u = torch.as_tensor(rng.random((4, 9)), dtype=torch.float32)
    mean = exact(keys_of(v, v), u, 0.3).posterior(9).mean
    for pixel in range(9):
        alone = exact(keys_of(v, v[:, [pixel]]), u, 0.3).posterior(1).mean[:, 0]
        torch.testing.assert_close(mean[:, pixel], alone, rtol=1e-5, atol=1e-6)


def test_sums_over_no_key_are_neutral():
    empty = PosteriorSums.empty(2, 1, 0, EVERYTHING, CPU)
    both = empty.merge(empty)
    assert both.log_max.tolist() == [-math.inf, -math.inf]
    assert both.moments.tolist() == [[0.0] * 3] * 2


def test_far_queries_keep_their_posterior():
    """Every weight underflows beside the query's own distance, and the sums must not notice."""
    v, t = np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]])
    posterior = exact(keys_of(v, t), torch.tensor([[2000.0]]), 1.0).posterior(1)
    torch.testing.assert_close(posterior.mean, torch.tensor([[1.0]], dtype=torch.float64))
    assert posterior.log_density.item() == pytest.approx(-(1999.0**2) / 2, rel=1e-6)


def test_cancelling_stops_between_tiles():
    calls = []

    def cancelled() -> bool:
        calls.append(len(calls))
        return len(calls) > 2

    with pytest.raises(Cancelled):
        exact_sums(
            keys_of(np.zeros((50, 1)), np.zeros((50, 1)), tile=10),
            Queries.white(torch.zeros(1, 1), 1.0),
            SumSpec(cancelled=cancelled),
        )
    assert len(calls) == 3
