"""What top-k does with fewer neighbours than keys."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.estimator import (
    Neighbours,
    Outputs,
    Queries,
    Reconstructor,
    SumSpec,
    exact_sums,
    load_keys,
    topk_sums,
)
from lemmse.index import build, open_index
from lemmse.index.reading.held_out_view import leave_out
from tests.support.cases import smooth
from tests.support.oracle import agreement

P = 3


@pytest.fixture(scope="module", params=["uint8", "int16", "float32"])
def index(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("topk")
    images = np.stack([smooth(seed, 16, 16, 1) for seed in range(20)])
    if request.param != "uint8":
        images = 0.9 * images
    if request.param == "int16":
        images = np.rint(65_535 * images).astype(np.uint16)
    np.save(folder / "x.npy", images)
    index = open_index(build([folder / "x.npy"], folder / "index", patch_size=P))
    assert index.manifest.key_dtype == request.param
    return index


@pytest.fixture(scope="module")
def keys(index):
    return load_keys(index, torch.device("cpu"))


@pytest.fixture(scope="module")
def neighbours(index):
    return Neighbours(index.neighbours, index.quantization, index.stratum_cells)


@pytest.fixture(scope="module")
def queries() -> torch.Tensor:
    rng = np.random.default_rng(3)
    return torch.as_tensor(rng.random((25, P * P)), dtype=torch.float32)


@pytest.mark.parametrize("k", [1, 2, 50, 5119, 5120])
@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_sums_the_k_nearest_keys(index, keys, neighbours, queries, k, sigma):
    v, t = index.keys(0, keys.count).astype(float), index.targets(0, keys.count).astype(float)
    want = Outputs(variance=True, ess=True, top=2)
    posterior = topk_sums(
        keys, neighbours, Queries.white(queries, sigma), SumSpec("topk", k=k, nprobe=10**6, outputs=want)
    ).posterior(1)
    checked = 0
    for q, u in enumerate(queries.numpy().astype(float)):
        squared = ((v - u) ** 2).sum(axis=1)
        nearest = np.sort(squared)[k - 1]
        if np.sum(squared <= nearest) > k:  # which of the ties are summed is FAISS's choice
            continue
        checked += 1
        chosen = squared <= nearest
        w = np.exp(-(squared[chosen] - squared.min()) / (2 * sigma**2))
        mean = w @ t[chosen] / w.sum()
        np.testing.assert_allclose(posterior.mean[q], mean, rtol=1e-3)
        np.testing.assert_allclose(posterior.variance[q], w @ t[chosen] ** 2 / w.sum() - mean**2, atol=1e-5)
        np.testing.assert_allclose(posterior.ess[q, 0], w.sum() ** 2 / (w**2).sum(), rtol=1e-2)
        np.testing.assert_allclose(posterior.top_weight[q, 0], w.max() / w.sum(), rtol=1e-2)
    assert checked > len(queries) / 2


@given(k=st.integers(1, 5200), nprobe=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_no_neighbour_is_missing_and_none_counts_twice(index, neighbours, queries, k, nprobe):
    k = min(k, index.manifest.keys)
    squared, found, touched = neighbours.search(queries.numpy(), k, nprobe)
    assert (found >= 0).all()
    assert (np.diff(np.sort(found, axis=1), axis=1) > 0).all()
    assert (np.diff(squared, axis=1) >= 0).all()
    assert (touched >= k).all()
    assert (touched <= index.manifest.keys).all()


def test_more_cells_find_nearer_keys(index, neighbours, queries):
    mean_distance = [neighbours.search(queries.numpy(), 20, nprobe)[0].mean() for nprobe in (1, 4, 64)]
    assert mean_distance[0] > mean_distance[1] > mean_distance[2]


def test_a_cell_that_lost_its_keys_is_passed_over(index, queries):
    """Each query with a precision for each pixel, and all keys its neighbours: the exact sum."""
    images = index.ids(0, index.manifest.keys)[:, 0]
    cell = np.repeat(np.arange(len(index.cell_keys) - 1), np.diff(index.key_patches[index.cell_keys]))
    smallest = np.bincount(cell).argmin()
    left = leave_out(index, np.unique(images[cell == smallest]))
    assert (np.diff(left.cell_keys) == 0).any()
    keys = load_keys(left, torch.device("cpu"))
    neighbours = Neighbours(left.neighbours, left.quantization, left.stratum_cells)
    asked = Queries(queries, torch.full_like(queries, 4.0))
    found = topk_sums(keys, neighbours, asked, SumSpec("topk", k=keys.count, nprobe=10**6)).posterior(1)
    expected = exact_sums(keys, asked).posterior(1)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(found.log_density, expected.log_density, atol=1e-4)


def test_few_neighbours_are_enough_at_low_noise_only(index):
    lemmse = Reconstructor(index)
    x = smooth(99, 12, 12, 1)
    found = {}
    for sigma in (0.02, 1.0):
        y = x + sigma * np.random.default_rng(0).standard_normal(x.shape)
        exact = lemmse.reconstruct(y, sigma=sigma, mode="exact").image
        found[sigma] = agreement(lemmse.reconstruct(y, sigma=sigma, mode="topk", k=20).image, exact)
    assert found[0.02] > 50 > 30 > found[1.0]
