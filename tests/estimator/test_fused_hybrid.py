"""Mode hybrid by the fused kernel: its cells and groups, lists and sums against oracles.

Without a GPU it runs in Triton's interpreter, on a few small blocks.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract.errors import Cancelled
from lemmse.estimator import Outputs, Queries, Reconstructor, SumSpec, exact_sums
from lemmse.estimator.fused import FusedKeys
from lemmse.estimator.fused_hybrid import FusedHybrid, KeyGroups
from lemmse.estimator.fused_hybrid.group_sums import ClosedSums, probe
from lemmse.estimator.fused_hybrid.groups import GroupMoments
from lemmse.estimator.fused_hybrid.tables import GroupQueries, GroupTables, LevelTables
from lemmse.estimator.fused_hybrid.visits import PART, Visits, list_queries
from lemmse.index import build, open_index
from lemmse.index.clustering.moments import Moments
from tests.support.bounds import within_bounds
from tests.support.fused import BLOCKS, DEVICE, FEW_THRESHOLDS
from tests.support.oracle import agreement

SPAN = 64
ALL = Outputs(variance=True, ess=True, error=True)


@pytest.fixture(autouse=True, scope="module")
def all_accesses():
    with within_bounds():
        yield


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def index(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused_hybrid")
    np.save(folder / "x.npy", images)
    return open_index(build([folder / "x.npy"], folder / "index", patch_size=3))


@pytest.fixture(scope="module")
def lemmse(index):
    lemmse = Reconstructor(index, device=str(DEVICE))
    backend = lemmse._backend
    backend.fused = FusedKeys(backend.keys, BLOCKS)
    backend.fused_hybrid = FusedHybrid(backend.key_tree, backend.fused, SPAN)
    return lemmse


@pytest.fixture(scope="module")
def backend(lemmse):
    return lemmse._backend


@pytest.fixture(scope="module")
def groups(backend):
    return KeyGroups.of(backend.key_tree, backend.fused, 0, SPAN)


def queries_of(images, sigma, count=20):
    rng = np.random.default_rng(1)
    patches = np.lib.stride_tricks.sliding_window_view(images[:, :, :, 0] / 255, (3, 3), (1, 2))
    u = patches.reshape(-1, 9)[rng.integers(0, 180, count)] + sigma * rng.standard_normal((count, 9))
    return Queries.white(torch.from_numpy(u), sigma).to(DEVICE)


def keys_and_targets(backend):
    keys = backend.keys
    v = keys.coordinates(0, keys.count, torch.float64).T
    return v, keys.moments.columns(0, keys.count).double().T


@pytest.mark.parametrize("level", ["cells", "groups"])
def test_groups_are_all_keys_once(backend, groups, level):
    v, moments = keys_and_targets(backend)
    edges, of_level = np.cumsum([0, *groups.keys.tolist()]), getattr(groups, level)
    edges = edges[groups.first_group.cpu()] if level == "cells" else edges
    assert edges[-1] == backend.keys.count
    assert len(of_level) == len(edges) - 1 > 1
    basis = backend.key_tree.basis
    rotated = (v.cpu().numpy() - basis.mean) @ basis.axes
    n, t = moments[:, 0].cpu().numpy(), (moments[:, 1] / moments[:, 0]).cpu().numpy()
    for g, (a, b) in enumerate(pairwise(edges)):
        w = n[a:b] / n[a:b].sum()
        assert float(of_level.n[g]) == n[a:b].sum()
        mean = w @ rotated[a:b]
        np.testing.assert_allclose(of_level.mean[g].cpu(), mean, atol=1e-5)
        np.testing.assert_allclose(of_level.variance[g].cpu(), w @ (rotated[a:b] - mean) ** 2, atol=1e-5)
        np.testing.assert_allclose(of_level.target[g].cpu(), [w @ t[a:b]], atol=1e-5)
        cross = (w * (t[a:b] - w @ t[a:b])) @ (rotated[a:b] - mean)
        np.testing.assert_allclose(of_level.cross[g, 0].cpu(), cross, atol=1e-5)
        np.testing.assert_allclose(of_level.low[:9, g].cpu(), rotated[a:b].min(axis=0), atol=1e-5)
        np.testing.assert_allclose(of_level.high[:9, g].cpu(), rotated[a:b].max(axis=0), atol=1e-5)


def test_spans_hold_the_keys_of_their_group(backend, groups):
    values, p = backend.fused._codes.values, backend.keys.p_length
    edges = np.cumsum([0, *groups.keys.tolist()])
    codes = backend.keys.codes.columns(0, backend.keys.count).T
    for g in range(len(groups.keys)):
        found = []
        for begin, _, first, end in groups.spans[groups.group_of_span == g].tolist():
            lanes = torch.arange(first, end)
            runs = begin + (lanes // 32) * (p * 32) + lanes % 32
            found.append(values[runs[:, None] + 32 * torch.arange(p)])
        np.testing.assert_array_equal(torch.cat(found).cpu(), codes[edges[g] : edges[g + 1]].cpu())


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.sets(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=40),
    block=st.sampled_from([1, 2, 4]),
    blocks=st.integers(1, 3),
)
def test_each_pair_is_listed_once(pairs, block, blocks):
    group_of_span = torch.tensor([0, 1, 1, 1, 3, 3, 4])
    groups = KeyGroups(
        *[torch.empty(0)] * 3, torch.ones(5, dtype=torch.int64), torch.empty(7, 4), group_of_span
    )
    order = sorted(pairs, key=lambda pair: pair[1])
    query, group = (torch.tensor([pair[i] for pair in order], dtype=torch.int64) for i in (0, 1))
    found = []
    for listed, places in list_queries(groups, query, group, block, block * blocks):
        assert len(listed) == block * len(places) <= block * blocks
        for rows, span in zip(listed.reshape(-1, block).tolist(), places.tolist(), strict=True):
            assert rows[0] >= 0
            found += [(q, span) for q in rows if q >= 0]
    assert sorted(found) == sorted((q, s) for q, g in pairs for s in np.flatnonzero(group_of_span == g))


@settings(max_examples=30, deadline=None)
@given(
    count=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    most=st.sampled_from([1, 30, 1 << 28]),
    block=st.sampled_from([1, 2, 64]),
)
def test_each_visitor_meets_each_group_once(count, most, block):
    first_group, edges = [0, 1, 71, 201], np.cumsum([0, *count])
    met, entries = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lemmse.estimator.fused_hybrid.visits.MOST_PAIRS", most)
        query = torch.arange(edges[-1])
        for visits in Visits.of(query, torch.tensor(count), torch.tensor(first_group), block):
            place = torch.arange(visits.pairs)
            rows, groups = (x.tolist() for x in visits.pairs_at(place))
            assert groups == sorted(groups)
            met += zip(rows, groups, strict=True)
            row_of = visits.rows().tolist()
            entries += row_of
            found, begun = {}, {}
            for row, number, group, size, first, step, entry in visits.blocks.tolist():
                assert 0 < number <= block
                assert 0 < size <= PART
                begun |= {entry + i: row + i for i in range(number)}
                for i, j in np.ndindex(number, size):
                    found[first + j * step + i] = row + i, group + j
            assert [found[i] for i in range(visits.pairs)] == list(zip(rows, groups, strict=True))
            assert [begun[i] for i in range(visits.entries)] == row_of
    parents = [(range(*edges[c : c + 2]), range(*first_group[c : c + 2])) for c in range(3)]
    assert sorted(met) == sorted((q, g) for rows, groups in parents for q in rows for g in groups)
    assert sorted(entries) == sorted(q for rows, groups in parents for q in rows for _ in groups[::PART])


def estimates(groups, u, sigma):
    """Return s, s_max, log mass without and with few decisive keys, and log a of these, in float64."""
    mean, variance = groups.mean.double().cpu().numpy(), groups.variance.double().cpu().numpy()
    d2, lam, log_n = (u[:, None] - mean) ** 2, 1 / sigma**2, np.log(groups.n.double().cpu().numpy())
    s, s_max = lam * np.sqrt((variance * d2).sum(-1)), np.sqrt(2 * log_n) + 0 * d2[..., 0]
    held = np.minimum(s, s_max)
    jensen = log_n - lam / 2 * (d2.sum(-1) + variance.sum(-1))
    gaussian = log_n - 0.5 * ((d2 / (sigma**2 + variance)).sum(-1) + np.log(1 + lam * variance).sum(-1))
    return s, s_max, np.minimum(jensen + held * (s - held / 2), gaussian), lam, d2, variance, log_n, jensen


def oracle(groups, u, sigma, log_z, threshold, extent=None):
    """The groups to open, and what the others add, from the formulas of docs/mathematics.md, (Q, G) each."""
    s, s_max, log_mass, lam, d2, variance, log_n, _ = estimates(groups, u, sigma)
    log_mass = log_mass - log_z[:, None]
    m = lam * (d2.sum(-1) + variance.sum(-1))
    tau2 = 1.3 * lam**2 * ((variance * d2).sum(-1) + 0.5 * (variance**2).sum(-1)) / m
    x = np.maximum(np.sqrt(np.maximum(m - tau2, 0)) - np.sqrt(np.maximum(-2 * log_z, 0))[:, None], 0)
    nearest = 0.5 * log_n - x**2 / tau2 / (4 + 4 / 80 * x**2 / tau2) - 2
    far = s > s_max
    mass = np.exp(np.where(far, np.minimum(log_mass, nearest), log_mass))
    a = np.where(far, np.exp(nearest), mass * np.expm1(np.minimum(s, s_max)))
    opened = a > math.exp(threshold)
    if extent is not None:
        low, high = groups.low.double().cpu().numpy().T, groups.high.double().cpu().numpy().T
        outside = np.maximum(0, np.maximum(low - extent[:, None], extent[:, None] - high))
        near = -lam / 2 * (outside**2).sum(-1) > threshold - 1 + log_z[:, None]
        opened = np.where(far, near, opened | (near & (s > 2) & (a > math.exp(threshold - 4.5))))
        mass, a = np.where(far, 0, mass), np.where(far, 0, a)
    cross, gain = groups.cross[:, 0].double().cpu().numpy(), 1 / (sigma**2 + variance)
    d = u[:, None] - groups.mean.double().cpu().numpy()
    shrink = s_max / np.maximum(s, s_max)
    t = groups.target[:, 0].double().cpu().numpy() + shrink * (cross * gain * d).sum(-1)
    t2 = np.maximum(groups.target_variance[:, 0].double().cpu().numpy() - (cross**2 * gain).sum(-1), 0) + t**2
    patch = groups.mean.double().cpu().numpy() + shrink[..., None] * variance * gain * d
    growth = np.minimum(2 * s, s_max) * (2 * s - 0.5 * np.minimum(2 * s, s_max))
    growth -= 2 * np.minimum(s, s_max) * (s - 0.5 * np.minimum(s, s_max))
    sums = {"w": mass, "wt": mass * t, "wt2": mass * t2, "a2": a**2, "a2t": a**2 * t, "a2t2": a**2 * t2}
    return opened, sums | {"w2": mass**2 * np.exp(np.minimum(growth - log_n, 0)), "wv": (mass, patch)}


class Problem:
    """Queries, all of whose visits are made, for the two levels of an index."""

    def __init__(self, backend, groups, images, sigma):
        self.queries, basis = queries_of(images, sigma), backend.key_tree.basis
        self.u = (self.queries.u.double().cpu().numpy() - basis.mean) @ basis.axes
        self.axes, self.mean = (torch.from_numpy(x).to(DEVICE).double() for x in (basis.axes, basis.mean))
        self.tables = GroupTables(groups, 1 / sigma**2)
        self.of_groups = GroupQueries(torch.from_numpy(self.u).float().to(DEVICE), len(groups.cells.low))
        self.extent = np.column_stack([self.u, np.zeros(len(self.u))])

    def visits(self, count):
        """All queries visit all of so many groups."""
        q = len(self.queries)
        rows, first = torch.arange(q, device=DEVICE), torch.tensor([0, count], device=DEVICE)
        (visits,) = Visits.of(rows, torch.tensor([q], device=DEVICE), first, 64)
        return visits


@pytest.mark.parametrize(
    ("level", "sigma"), [("cells", 0.05), ("cells", 0.6), ("leaves", 0.05), ("leaves", 0.2), ("leaves", 0.6)]
)
def test_closed_groups_are_summed_by_their_moments(backend, groups, images, sigma, level):
    problem = Problem(backend, groups, images, sigma)
    tables = getattr(problem.tables, level)
    visits = problem.visits(len(tables.groups))
    log_z = exact_sums(backend.keys, problem.queries).log_z.float()
    threshold, q, g = -3.0, len(log_z), len(tables.groups)
    forced = np.full((g, q), -1, np.int32)
    kept = np.random.default_rng(0).integers(0, g, q)
    forced[kept, np.arange(q)] = kept
    outputs = Outputs(variance=True, ess=True, error=True, patch=True)
    closed = ClosedSums(problem.of_groups, 1 / sigma**2, log_z, threshold, 1, outputs)
    if level == "cells":
        opened = closed.open_cells(tables, visits, torch.from_numpy(forced).to(DEVICE))
    else:
        rows = torch.from_numpy(kept).int().to(DEVICE)
        opened = closed.open_groups(tables, visits, rows)
    opened = opened.view(g, q).T.cpu().numpy() != 0
    extent = problem.extent if level == "cells" else None
    chosen, right = oracle(tables.groups, problem.u, sigma, log_z.double().cpu().numpy(), threshold, extent)
    chosen[np.arange(q), kept] = True
    assert (opened == chosen).mean() > 0.99  # some errors are at the threshold
    assert 0.1 < chosen.mean() < 0.95
    same = (opened == chosen).all(axis=1)
    assert same.sum() >= 16
    sums = closed.sums(problem.axes, problem.mean)
    found = torch.cat([sums.moments, sums.error_variance, sums.w2], dim=1).cpu().numpy()
    mass, patch = right.pop("wv")
    expected = np.column_stack([np.where(chosen, 0, x).sum(axis=1) for x in right.values()])
    np.testing.assert_allclose(found[same], expected[same], rtol=2e-3, atol=1e-6)
    mass = np.where(chosen, 0, mass)
    basis = backend.key_tree.basis
    patches = (mass[..., None] * patch).sum(axis=1) @ basis.axes.T + mass.sum(axis=1)[:, None] * basis.mean
    np.testing.assert_allclose(sums.patches.cpu()[same], patches[same], rtol=1e-3, atol=1e-5)


def test_the_probe_estimates_the_sum_and_finds_the_heaviest_group(backend, groups, images):
    sigma = 0.6
    problem = Problem(backend, groups, images, sigma)
    tables = problem.tables.leaves
    visits = problem.visits(len(tables.groups))
    guess = probe(tables, 1 / sigma**2, problem.of_groups, visits)
    *_, jensen = found = estimates(tables.groups, problem.u, sigma)
    log_mass, trusted = found[2], np.minimum(found[2], jensen + 2)
    parts = [(a, min(a + PART, len(tables.groups))) for a in range(0, len(tables.groups), PART)]
    for (a, b), row in zip(parts, range(0, visits.entries, 20), strict=True):
        here = slice(row, row + 20)
        np.testing.assert_array_equal(guess.group[here].cpu(), a + log_mass[:, a:b].argmax(axis=1))
        np.testing.assert_allclose(guess.largest[here].cpu(), log_mass[:, a:b].max(axis=1), atol=1e-4)
        total = np.log(np.exp(trusted[:, a:b]).sum(axis=1))
        np.testing.assert_allclose(guess.log_mass[here].cpu(), total, atol=1e-4)


def test_coordinates_after_the_leading_ones_have_one_variance():
    """Keys of 40 numbers have 32 leading coordinates."""
    rng, sigma, g, p = np.random.default_rng(0), 0.3, 70, 40

    def random(*shape):
        return rng.random(shape).astype(np.float32)

    groups = GroupMoments.of(
        Moments(
            *(random(g, p), 0.1 * random(g, p), random(g, 1), random(g, 1), 0.1 * random(g, 1, p)),
            *(random(17, g).T, random(17, g).T, random(g, 1), random(g, 1)),
        ),
        rng.integers(1, 300, g),
        DEVICE,
    )
    assert groups.variance[:, 32:].std(dim=1).max() == 0
    assert (groups.cross[:, :, 32:] == 0).all()
    u, tables = random(3, p), LevelTables(groups, 1 / sigma**2)
    rows, count, first = (torch.tensor(x, device=DEVICE) for x in ([0, 1, 2], [3], [0, g]))
    (visits,) = Visits.of(rows, count, first, 64)
    queries = GroupQueries(torch.from_numpy(u).to(DEVICE), 17)
    found = probe(tables, 1 / sigma**2, queries, visits)
    _, _, log_mass, *_, jensen = estimates(groups, u.astype(float), sigma)
    total = np.logaddexp.reduce(np.minimum(log_mass, jensen + 2), axis=1)
    np.testing.assert_allclose(found.log_mass.view(-1, 3).logsumexp(dim=0).cpu(), total, atol=1e-4)
    log_z = torch.from_numpy(total).float().to(DEVICE)
    closed = ClosedSums(queries, 1 / sigma**2, log_z, 80.0, 1, ALL)
    nothing = torch.full((3,), -1, dtype=torch.int32, device=DEVICE)
    assert not closed.open_groups(tables, visits, nothing).any()
    _, right = oracle(groups, u.astype(float), sigma, log_z.double().cpu().numpy(), 80.0)
    sums = closed.sums(*(torch.eye(p, device=DEVICE).double(), torch.zeros(p, device=DEVICE).double()))
    expected = np.column_stack([right[name].sum(axis=1) for name in ("w", "wt", "wt2")])
    np.testing.assert_allclose(sums.moments.cpu(), expected, rtol=1e-4)


@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_opening_all_groups_is_exact(backend, images, sigma):
    queries = queries_of(images, sigma, 6)
    found = backend.fused_hybrid.sums(queries, SumSpec("hybrid", threshold=-1e6, outputs=ALL))
    exact = exact_sums(backend.keys, queries, SumSpec(outputs=ALL))
    assert found.keys_evaluated.tolist() == exact.keys_evaluated.tolist()
    ours, theirs = found.posterior(1), exact.posterior(1)
    assert agreement(ours.mean.cpu(), theirs.mean.cpu().numpy()) >= 80
    assert agreement(ours.variance.cpu(), theirs.variance.cpu().numpy()) >= 80
    np.testing.assert_allclose(ours.ess.cpu(), theirs.ess.cpu(), rtol=2e-3)
    np.testing.assert_allclose(ours.log_density.cpu(), theirs.log_density.cpu(), atol=0.01)
    assert (ours.error == 0).all()


@pytest.fixture
def few_thresholds(monkeypatch):
    monkeypatch.setattr("lemmse.estimator.sampled_calibration._THRESHOLDS", FEW_THRESHOLDS)


@pytest.mark.usefixtures("few_thresholds")
@pytest.mark.parametrize("mode", ["exact", pytest.param("hybrid", marks=pytest.mark.slow)])
def test_clean_patches_of_whitened_keys(images, tmp_path, mode):
    power = np.ones((8, 8))
    power[:, 0] += 20
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "noise.npy", power)
    built = build([tmp_path / "x.npy"], tmp_path / "index", patch_size=3, noise=tmp_path / "noise.npy")
    lemmse = Reconstructor(open_index(built), device=str(DEVICE))
    y = images[0, :3, :3] / 255 + 0.02
    asked = {"sigma": 0.2, "aggregate": "overlap", "mode": mode, "accuracy_db": 100.0}
    expected = lemmse.reconstruct(y, **asked)
    backend = lemmse._backend
    backend.fused = FusedKeys(backend.keys, BLOCKS)
    backend.fused_hybrid = FusedHybrid(backend.key_tree, backend.fused, SPAN)
    found = lemmse.reconstruct(y, **asked)
    assert found.diagnostics.mode == mode
    assert agreement(found.image, expected.image) >= 80
    assert not backend.fused.computes(Outputs(variance=True, patch=True))


def test_lists_in_parts_on_a_gpu_of_little_shared_memory(backend, images, monkeypatch):
    """The kernel is started with fewer stages if it does not fit, and lists are divided if they are long."""
    from triton.runtime import OutOfResources

    from lemmse.estimator.fused.kernel import fused_kernel

    class Small:
        def __getitem__(self, grid):
            def run(*arguments, num_stages, **others):
                tried.append(num_stages)
                if num_stages > 1:
                    raise OutOfResources(130_048, 101_376, "shared memory")
                fused_kernel[grid](*arguments, **others)

            return run

    tried = []
    queries, spec = queries_of(images, 0.3, 4), SumSpec("hybrid", threshold=3.0)
    right = backend.fused_hybrid.sums(queries, spec)
    monkeypatch.setattr("lemmse.estimator.fused.launch.fused_kernel", Small())
    monkeypatch.setattr("lemmse.estimator.fused_hybrid.sums._OPENED", 2)
    found = backend.fused_hybrid.sums(queries, spec)
    assert tried[:3] == [3, 2, 1]
    assert len(tried) > 2 * 3  # for the estimate, and several parts
    assert found.keys_evaluated.tolist() == right.keys_evaluated.tolist()
    torch.testing.assert_close(found.posterior(1).mean, right.posterior(1).mean, rtol=1e-5, atol=1e-6)


def test_an_estimate_that_is_too_high_ends_in_the_exact_sum(backend, images, monkeypatch):
    module = "lemmse.estimator.fused_hybrid.sums"
    monkeypatch.setattr(f"{module}._TOO_HIGH", -1e9)
    queries = queries_of(images, 0.3, 4)
    found = backend.fused_hybrid.sums(queries, SumSpec("hybrid", threshold=80.0))
    exact = exact_sums(backend.keys, queries, SumSpec())
    assert agreement(found.posterior(1).mean.cpu(), exact.posterior(1).mean.cpu().numpy()) >= 100


def test_cancelling(backend, images):
    with pytest.raises(Cancelled):
        backend.fused_hybrid.sums(queries_of(images, 0.3, 4), SumSpec("hybrid", cancelled=lambda: True))


@pytest.mark.slow
@pytest.mark.usefixtures("few_thresholds")
@pytest.mark.parametrize(
    ("side", "asked"),
    [
        (5, {"sigma": 0.3, "accuracy_db": 60, "maps": ("variance", "ess", "error")}),
        (4, {"sigma": 0.3, "accuracy_db": 40, "aggregate": "overlap"}),
    ],
    ids=str,
)
def test_images_agree_as_requested(lemmse, images, side, asked):
    """The threshold is chosen on a sample of the image itself: without a calibration, and for any image."""
    noise = np.random.default_rng(2).standard_normal((side, side, 1))
    y = images[0, :side, :side] / 255 + 0.1 * noise
    found = lemmse.reconstruct(y, mode="hybrid", **asked)
    exact = lemmse.reconstruct(y, mode="exact", **{k: v for k, v in asked.items() if k != "accuracy_db"})
    assert agreement(found.image, exact.image) >= asked["accuracy_db"]
    assert found.diagnostics.mode == "hybrid"
    assert found.diagnostics.expected_accuracy_db >= asked["accuracy_db"]
    if "maps" in asked:
        assert (np.abs(found.image - exact.image) <= found.error).mean() >= 0.95


def test_what_it_does_not_compute_is_exact(lemmse, images):
    y = images[0, :4, :4] / 255
    mask = np.ones(y.shape[:2], bool)
    mask[1, 2] = False
    for asked in ({"mask": mask}, {"maps": ("error",), "error": "certified"}):
        assert lemmse.reconstruct(y, sigma=0.3, mode="hybrid", **asked).diagnostics.mode == "exact"
    assert lemmse.reconstruct(y, sigma=0.3).diagnostics.mode == "exact"
