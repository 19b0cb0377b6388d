"""How the keys of a cell are cut into leaves."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lemmse.index.clustering.leaves import LEAF, split


def scattered(n, p, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, p), np.float32)


def repeated(distinct, count, p, seed=0) -> np.ndarray:
    """Keys of which each occurs many times, in any order."""
    rng = np.random.default_rng(seed)
    return rng.random((distinct, p), np.float32)[rng.integers(0, distinct, count)]


def scatter_within(v, leaf) -> float:
    """Sum of the squared distances of keys from the means of their leaves."""
    members = [v[leaf == number].astype(float) for number in range(leaf.max() + 1)]
    return sum(float(np.sum((own - own.mean(axis=0)) ** 2)) for own in members)


def require_partition(v, leaf):
    """Leaves are numbered without gaps, and equal keys are in one leaf."""
    assert leaf.shape == (len(v),)
    assert leaf.dtype == np.int64
    assert set(leaf.tolist()) == set(range(leaf.max() + 1))
    home = {}
    for key, number in zip(map(bytes, v), leaf.tolist(), strict=True):
        assert home.setdefault(key, number) == number


@given(
    n=st.integers(1, 700),
    p=st.integers(1, 5),
    steps=st.sampled_from([1, 2, 5, 255, 10**6]),
    seed=st.integers(0, 2**31 - 1),
)
@example(n=1, p=3, steps=1, seed=0)
@example(n=2, p=1, steps=255, seed=0)
@settings(max_examples=60, deadline=None)
def test_is_a_partition_and_the_same_every_time(n, p, steps, seed):
    v = (np.random.default_rng(seed).integers(0, steps, (n, p)) / steps).astype(np.float32)
    leaf = split(v, seed)
    require_partition(v, leaf)
    np.testing.assert_array_equal(split(v, seed), leaf)


@pytest.mark.parametrize("n", [1, 2, LEAF, LEAF * 3 // 2 - 1])
def test_few_keys_are_one_leaf(n):
    np.testing.assert_array_equal(split(scattered(n, 4), 0), np.zeros(n))


@pytest.mark.parametrize("n", [2 * LEAF, 20 * LEAF, 96 * LEAF, 300 * LEAF])
@pytest.mark.parametrize("p", [2, 27])
def test_leaves_of_scattered_keys_have_the_size_they_should_on_average(n, p):
    v = scattered(n, p)
    leaf = split(v, 3)
    require_partition(v, leaf)
    assert 0.8 * LEAF < n / (leaf.max() + 1) < 1.25 * LEAF
    assert max(Counter(leaf.tolist()).values()) < 10 * LEAF


@pytest.mark.parametrize("n", [20 * LEAF, 300 * LEAF])  # one round, and two
def test_keys_of_a_leaf_are_near_each_other(n):
    v = scattered(n, 3)
    leaf = split(v, 0)
    by_chance = np.random.default_rng(1).permutation(leaf)
    # Cubes of LEAF keys each would leave (LEAF / n)^(2/3) of the scatter.
    assert scatter_within(v, leaf) < 2 * (LEAF / n) ** (2 / 3) * scatter_within(v, by_chance)


def test_well_apart_groups_share_no_leaf():
    group = np.random.default_rng(0).integers(0, 3, 40 * LEAF)
    v = scattered(len(group), 4) + 1000 * np.float32(group)[:, None]
    leaf = split(v, 0)
    for number in range(leaf.max() + 1):
        assert len(set(group[leaf == number].tolist())) == 1


@pytest.mark.parametrize(("distinct", "count"), [(2, 200), (5, 4500), (20, 4500), (3, 20_000), (1000, 6000)])
def test_a_leaf_of_few_distinct_keys_has_no_gap_in_its_numbers(distinct, count):
    leaf = split(repeated(distinct, count, 75, 0), 0)
    assert sorted(set(leaf.tolist())) == list(range(leaf.max() + 1))


@pytest.mark.parametrize("others", [0, 1, 5000])
def test_very_many_equal_keys(others):
    v = np.concatenate([np.full((100_000, 9), 0.3, np.float32), scattered(others, 9)])
    start = time.process_time()
    leaf = split(v, 0)
    assert time.process_time() - start < 20  # what is quadratic in the equal keys takes minutes
    assert len(set(leaf[:100_000].tolist())) == 1
    require_partition(v, leaf)
