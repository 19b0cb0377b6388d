"""What top-k does with fewer neighbours than keys."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemmse.contract.errors import Cancelled
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
from lemmse.estimator.heaviest import Heaviest
from lemmse.estimator.topk import _shares
from lemmse.index import build, open_index
from lemmse.index.reading.held_out_view import leave_out
from tests.support.cases import smooth
from tests.support.oracle import agreement

P = 3
MOST = 2**32 - 1


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


@pytest.mark.parametrize("how", ["FAISS", "scan"])
@pytest.mark.parametrize("k", [1, 2, 50, 5119, 5120])
@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_sums_the_k_nearest_keys(index, keys, neighbours, queries, k, sigma, how, monkeypatch):
    if how == "scan":
        monkeypatch.setattr("lemmse.estimator.topk._COORDINATES", 1)
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


@pytest.fixture(params=["FAISS", "scan", "scan with a precision for each pixel"])
def asked(request, queries, monkeypatch) -> Queries:
    """The queries of σ = 0.5, in each way to search for their neighbours."""
    if request.param == "scan":
        monkeypatch.setattr("lemmse.estimator.topk._COORDINATES", 1)
    return Queries(queries, torch.full_like(queries, 4.0) if "pixel" in request.param else torch.tensor(4.0))


def search(keys, neighbours, asked, **limits):
    """The k nearest keys of each query: log w, numbers, and how many were evaluated."""
    k = min(limits["k"], keys.count)
    sums = topk_sums(keys, neighbours, asked, SumSpec("topk", outputs=Outputs(top=k), **limits))
    return sums.top_log_w.numpy(), sums.top_key.numpy(), sums.keys_evaluated.numpy()


@given(k=st.integers(1, 5200), nprobe=st.integers(1, 100))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_neighbour_is_missing_and_none_counts_twice(index, keys, neighbours, asked, k, nprobe):
    log_w, found, touched = search(keys, neighbours, asked, k=k, nprobe=nprobe)
    assert (found >= 0).all()
    assert (np.diff(np.sort(found, axis=1), axis=1) > 0).all()
    assert (np.diff(log_w, axis=1) <= 0).all()
    squared = ((index.keys(0, keys.count)[found] - asked.u.numpy()[:, None].astype(float)) ** 2).sum(axis=2)
    np.testing.assert_allclose(log_w, -2 * squared, rtol=1e-4, atol=1e-4)
    assert (touched >= min(k, keys.count)).all()
    assert (touched <= keys.count).all()


def test_more_cells_find_nearer_keys(keys, neighbours, asked):
    mean = [search(keys, neighbours, asked, k=20, nprobe=nprobe)[0].mean() for nprobe in (1, 4, 64)]
    assert mean[0] < mean[1] < mean[2]


def test_all_cells_have_the_nearest_keys(index, keys, neighbours, asked):
    log_w, _, touched = search(keys, neighbours, asked, k=7, nprobe=MOST)
    squared = ((index.keys(0, keys.count) - asked.u.numpy()[:, None].astype(float)) ** 2).sum(axis=2)
    np.testing.assert_allclose(log_w, -2 * np.sort(squared, axis=1)[:, :7], rtol=1e-4, atol=1e-4)
    assert (touched == keys.count).all()


def test_the_largest_limits_give_the_exact_sums(keys, neighbours, asked):
    spec = SumSpec("topk", k=MOST, nprobe=MOST, outputs=Outputs(variance=True, ess=True, patch=True))
    found, expected = topk_sums(keys, neighbours, asked, spec), exact_sums(keys, asked, spec.exact())
    for name in ("mean", "variance", "patch", "patch_variance", "ess", "log_density"):
        values = (getattr(sums.posterior(1), name) for sums in (found, expected))
        torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)


def test_sums_do_not_depend_on_how_many_neighbours_are_summed_at_once(keys, neighbours, asked, monkeypatch):
    spec = SumSpec("topk", k=100, nprobe=4, outputs=Outputs(variance=True, top=3, patch=True))
    expected = topk_sums(keys, neighbours, asked, spec).posterior(1)
    monkeypatch.setattr("lemmse.estimator.topk._NEIGHBOURS", 30)
    found = topk_sums(keys, neighbours, asked, spec).posterior(1)
    for name in ("mean", "variance", "patch", "top_weight", "top_key", "log_density"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def polls(keys, neighbours, asked, last=math.inf, **limits) -> int:
    """The number of polls for cancellation, the last of which says that nobody waits."""
    count = itertools.count(1)
    spec = SumSpec("topk", cancelled=lambda: next(count) >= last, **limits)
    if last < math.inf:
        with pytest.raises(Cancelled):
            topk_sums(keys, neighbours, asked, spec)
    else:
        topk_sums(keys, neighbours, asked, spec)
    return next(count) - 1


@pytest.mark.parametrize(
    "limits", [{"k": 1, "nprobe": MOST}, {"k": MOST, "nprobe": 1}, {"k": 50, "nprobe": 8}]
)
def test_cancelling_stops_at_the_poll_that_says_so(keys, neighbours, asked, limits, monkeypatch):
    monkeypatch.setattr("lemmse.estimator.topk._NEIGHBOURS", 100)
    asked = asked.rows(slice(3))
    total = polls(keys, neighbours, asked, **limits)
    assert total >= 3
    for last in (1, 2, total // 2, total):
        assert polls(keys, neighbours, asked, last, **limits) == last


def test_a_scan_polls_for_every_cell(keys, neighbours, queries):
    """Once for each cell and, for all queries together, once before the search and once before the sums."""
    weighted = Queries(queries, torch.full_like(queries, 4.0))
    cells = int(np.diff(neighbours.strata_cells)[0])
    assert polls(keys, neighbours, weighted, k=1, nprobe=MOST) == cells + 2


def test_the_more_candidates_the_fewer_queries_between_two_polls(keys, neighbours, queries, monkeypatch):
    """No more candidates than one query has in all cells, whatever the number of cells."""
    monkeypatch.setattr("lemmse.estimator.topk._COORDINATES", keys.count * P * P)
    white = Queries.white(queries, 0.5)
    count = [polls(keys, neighbours, white, k=1, nprobe=nprobe) for nprobe in (1, 16, MOST)]
    assert count[0] < count[1] < count[2] == 1 + 2 * len(queries)


def test_a_share_ends_with_the_query_that_completes_its_work():
    work = np.array([0.5, 0.5, 0.25, 3.0, 0.125, 0.125, 0.75, 1.0])
    assert [(some.start, some.stop) for some in _shares(work)] == [(0, 2), (2, 4), (4, 7), (7, 8)]


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


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_heaviest_keys_are_those_of_a_sort(data):
    """Runs of keys, each for some of the queries; equal weights among them."""
    k = data.draw(st.integers(1, 6))
    heaviest = Heaviest(3, k=k, room=data.draw(st.integers(5, 12)), device=torch.device("cpu"))
    known: list[list[tuple[float, int]]] = [[], [], []]
    first = 0
    for _ in range(data.draw(st.integers(1, 6))):
        rows = data.draw(st.lists(st.integers(0, 2), min_size=1, unique=True))
        length = data.draw(st.integers(1, 5))
        runs = st.lists(st.integers(-9, 0), min_size=length, max_size=length)
        log_w = [data.draw(runs) for _ in rows]
        heaviest.add(torch.tensor(rows), torch.tensor(log_w, dtype=torch.float32), first)
        for row, run in zip(rows, log_w, strict=True):
            known[row] += [(float(value), first + i) for i, value in enumerate(run)]
        first += length
    for row, (log_w, key) in enumerate(zip(*(x.tolist() for x in heaviest.sorted()), strict=True)):
        expected = sorted((value for value, _ in known[row]), reverse=True)[:k]
        assert log_w[: len(expected)] == expected
        assert set(zip(log_w, key, strict=True)) <= {*known[row], (-math.inf, -1)}
        assert len(set(key) - {-1}) == len(expected)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_a_tenth_of_the_keys_is_summed_exactly(index, sigma, masked):
    lemmse = Reconstructor(index, device="cpu")
    y = smooth(98, 6, 5, 1)
    mask = np.arange(30).reshape(6, 5, 1) % 7 > 0 if masked else None
    tenth = -(-index.manifest.distinct // 10)
    exact = lemmse.reconstruct(y, sigma=sigma, mask=mask, mode="exact").image
    for k, nprobe, mode in (
        (tenth - 1, MOST, "topk"),
        (tenth, 1, "exact"),
        (index.manifest.distinct, 1, "exact"),
        (MOST, MOST, "exact"),
    ):
        result = lemmse.reconstruct(y, sigma=sigma, mask=mask, mode="topk", k=k, nprobe=nprobe)
        assert result.diagnostics.mode == mode
        assert np.array_equal(result.image, exact) == (mode == "exact")
