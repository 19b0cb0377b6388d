"""Moments of groups of keys, against loops over the groups in float64."""

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.index.clustering.moments import LEADING, Basis, Moments
from tests.support.moments import EPS, moments_oracle

TINY = float(np.finfo(np.float32).tiny)


def once(v) -> np.ndarray:
    """Every key has one target."""
    return np.arange(len(v) + 1)


def groups(sizes, p, channels, seed, offset=0.0):
    """Keys and targets of groups of these sizes, each about a place of its own."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum([0, *sizes])
    v = offset + np.repeat(rng.normal(size=(len(sizes), p)), sizes, axis=0) + rng.normal(size=(edges[-1], p))
    return v.astype(np.float32), rng.random((edges[-1], channels), np.float32), edges


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=8)


@given(
    sizes=SIZES,
    p=st.sampled_from([1, 3, LEADING, LEADING + 1, 27]),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0.0, 1000.0]),
)
@settings(max_examples=60, deadline=None)
def test_are_those_of_each_group(sizes, p, channels, seed, offset):
    v, t, edges = groups(sizes, p, channels, seed, offset)
    moments, expected = Moments.of(v, t, edges, once(v)), moments_oracle(v, t, edges)
    # A mean is rounded thrice: the sum, 1/n and their product.
    off_v, off_t = (2 * EPS * abs(expected[name]) for name in ("mean", "target"))
    assert (abs(moments.mean - expected["mean"]) <= off_v + TINY).all()
    assert (abs(moments.target - expected["target"]) <= off_t + TINY).all()
    # What the mean is off by enters a variance as its square, and each deviation is rounded.
    variance, target_variance = expected["variance"], expected["target_variance"]
    assert (abs(moments.variance - variance) <= 8 * EPS * variance + off_v**2 + TINY).all()
    assert (
        abs(moments.target_variance - target_variance) <= 8 * EPS * target_variance + off_t**2 + TINY
    ).all()
    bound = np.sqrt(target_variance[:, :, None] * variance[:, None])
    off = off_t[:, :, None] * off_v[:, None]
    assert (abs(moments.cross - expected["cross"]) <= 8 * EPS * bound + off + TINY).all()
    for name in ("low", "high"):
        found = getattr(moments, name)
        assert found.shape == (len(sizes), min(p, LEADING) + 1)
        np.testing.assert_array_equal(found[:, :-1], expected[name][:, :-1])
        np.testing.assert_allclose(found[:, -1], expected[name][:, -1], rtol=p * EPS)
    np.testing.assert_array_equal(moments.target_low, expected["target_low"])
    np.testing.assert_array_equal(moments.target_high, expected["target_high"])


@given(
    sizes=SIZES,
    p=st.sampled_from([1, 4, 20]),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_a_key_counts_as_often_as_it_has_targets(sizes, p, channels, seed):
    v, _, edges = groups(sizes, p, channels, seed)
    rng = np.random.default_rng(seed)
    counts = rng.choice([1, 2, 300], len(v), p=[0.8, 0.15, 0.05])
    t = rng.random((counts.sum(), channels), np.float32)
    copies = np.cumsum([0, *counts])
    found = Moments.of(v, t, edges, copies)
    expected = moments_oracle(np.repeat(v, counts, axis=0), t, copies[edges])
    for name, wanted in expected.items():
        atol = 64 * EPS * abs(v).max() ** 2 * (p if name in ("low", "high") else 1)
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=0, atol=atol, err_msg=name)


@given(sizes=SIZES, p=st.sampled_from([2, 20]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_no_key_is_outside_the_extent_of_its_group(sizes, p, seed):
    v, t, edges = groups(sizes, p, 2, seed)
    moments = Moments.of(v, t, edges, once(v))
    for g, (start, stop) in enumerate(pairwise(edges)):
        for key, target in zip(v[start:stop], t[start:stop], strict=True):
            leading, rest = key[:LEADING], np.linalg.norm(key[LEADING:].astype(float))
            assert (moments.low[g, :-1] <= leading).all()
            assert (leading <= moments.high[g, :-1]).all()
            assert moments.low[g, -1] <= rest * (1 + p * EPS)
            assert rest * (1 - p * EPS) <= moments.high[g, -1]
            assert (moments.target_low[g] <= target).all()
            assert (target <= moments.target_high[g]).all()


@given(
    unions=st.lists(SIZES, min_size=1, max_size=5),
    p=st.sampled_from([1, 4, 20]),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_merged_are_those_of_the_union(unions, p, channels, seed):
    sizes = np.concatenate(unions)
    v, t, edges = groups(sizes, p, channels, seed)
    of_unions = np.cumsum([0, *map(len, unions)])
    merged = Moments.merge(Moments.of(v, t, edges, once(v)), sizes, of_unions)
    expected = moments_oracle(v, t, edges[of_unions])
    # Means are off by some EPS of the largest coordinate, and what lies between two means as much.
    size = {"v": abs(v).max(), "t": abs(t).max()}
    for name, scale in {
        "mean": size["v"],
        "target": size["t"],
        "variance": size["v"] ** 2,
        "target_variance": size["t"] ** 2,
        "cross": size["t"] * size["v"],
    }.items():
        np.testing.assert_allclose(getattr(merged, name), expected[name], rtol=0, atol=16 * EPS * scale)
    of_all = Moments.of(v, t, edges[of_unions], once(v))
    for name in ("low", "high", "target_low", "target_high"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(of_all, name))


@given(sizes=SIZES, cut=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_joined_are_those_of_all_groups(sizes, cut, seed):
    v, t, edges = groups(sizes, 5, 2, seed)
    cut = min(cut, len(sizes))
    blocks = [Moments.of(v[: edges[cut]], t[: edges[cut]], edges[: cut + 1], once(v[: edges[cut]]))]
    if cut < len(sizes):
        rest = v[edges[cut] :], t[edges[cut] :]
        blocks.append(Moments.of(*rest, edges[cut:] - edges[cut], once(rest[0])))
    joined, whole = Moments.join(blocks), Moments.of(v, t, edges, once(v))
    for field in fields(Moments):
        found = getattr(joined, field.name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, getattr(whole, field.name))


@pytest.mark.parametrize("p", [1, LEADING, LEADING + 1, 27])
@pytest.mark.parametrize("channels", [1, 3])
def test_moments_come_back_from_their_rows(p, channels):
    v, t, edges = groups([3, 1, 20], p, channels, seed=0)
    moments = Moments.of(v, t, edges, once(v))
    back = Moments.of_rows(moments.rows(), p, channels)
    for field in fields(Moments):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(moments, field.name))


def sample(n, p, seed=0) -> np.ndarray:
    """Keys whose coordinates depend on each other."""
    rng = np.random.default_rng(seed)
    return (0.5 + rng.normal(size=(n, p)) @ rng.normal(size=(p, p))).astype(np.float32)


BASES = pytest.mark.parametrize(("n", "p"), [(1, 4), (3, 9), (500, 1), (500, 9), (2000, 75)])


@BASES
def test_axes_are_orthonormal(n, p):
    axes = Basis.of(sample(n, p)).axes.astype(float)
    np.testing.assert_allclose(axes.T @ axes, np.eye(p), rtol=0, atol=4 * EPS)


@BASES
def test_axes_are_principal_by_falling_variance(n, p):
    v = sample(n, p).astype(float)
    basis = Basis.of(sample(n, p))
    covariance = np.cov(v.T, bias=True).reshape(p, p) if n > 1 else np.zeros((p, p))
    expected = np.linalg.eigvalsh(covariance)[::-1]
    along = basis.axes.T.astype(float) @ covariance @ basis.axes
    np.testing.assert_allclose(along, np.diag(expected), rtol=0, atol=8 * EPS * expected[0])
    np.testing.assert_allclose(basis.mean, v.mean(axis=0), rtol=EPS, atol=EPS)


@BASES
def test_rotation_keeps_distances_and_sends_the_mean_to_zero(n, p):
    basis = Basis.of(sample(n, p))
    u = np.concatenate([sample(20, p, seed=1), basis.mean[None]])
    rotated = basis.rotate(u)
    assert rotated.dtype == np.float32
    assert (rotated[-1] == 0).all()
    largest = np.linalg.norm((u - basis.mean).astype(float), axis=1).max()
    for a in range(len(u)):
        for b in range(a):
            before = np.linalg.norm(u[a].astype(float) - u[b])
            after = np.linalg.norm(rotated[a].astype(float) - rotated[b])
            assert abs(before - after) <= 4 * np.sqrt(p) * EPS * largest
