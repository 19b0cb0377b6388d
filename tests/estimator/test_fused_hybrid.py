"""Mode hybrid by the fused kernel: its groups, lists and sums against oracles.

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
from lemmse.estimator.fused_hybrid.group_sums import close, patch_sums, probe
from lemmse.estimator.fused_hybrid.lists import list_queries
from lemmse.estimator.fused_hybrid.scores import GroupTables
from lemmse.index import build, open_index
from tests.support.fused import BLOCKS, DEVICE
from tests.support.oracle import agreement

SPAN = 64
ALL = Outputs(variance=True, ess=True, error=True)


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


def test_groups_are_all_keys_once(backend, groups):
    v, moments = keys_and_targets(backend)
    edges = np.cumsum([0, *groups.keys.tolist()])
    assert edges[-1] == backend.keys.count
    basis = backend.key_tree.basis
    rotated = (v.cpu().numpy() - basis.mean) @ basis.axes
    n, t = moments[:, 0].cpu().numpy(), (moments[:, 1] / moments[:, 0]).cpu().numpy()
    for g, (a, b) in enumerate(pairwise(edges)):
        w = n[a:b] / n[a:b].sum()
        assert float(groups.n[g]) == n[a:b].sum()
        mean = w @ rotated[a:b]
        np.testing.assert_allclose(groups.mean[g].cpu(), mean, atol=1e-5)
        np.testing.assert_allclose(groups.variance[g].cpu(), w @ (rotated[a:b] - mean) ** 2, atol=1e-5)
        np.testing.assert_allclose(groups.target[g].cpu(), [w @ t[a:b]], atol=1e-5)
        cross = (w * (t[a:b] - w @ t[a:b])) @ (rotated[a:b] - mean)
        np.testing.assert_allclose(groups.cross[g, 0].cpu(), cross, atol=1e-5)


def test_spans_hold_the_keys_of_their_group(backend, groups):
    values, p = backend.fused._codes.values, backend.keys.p_length
    edges = np.cumsum([0, *groups.keys.tolist()])
    codes = backend.keys.codes.columns(0, backend.keys.count).T
    for g in range(len(groups)):
        found = []
        for begin, _, first, end in groups.spans[groups.first_span[g] : groups.first_span[g + 1]].tolist():
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
    first_span = torch.tensor([0, 1, 4, 4, 6, 7])
    nothing = torch.empty(0)
    groups = KeyGroups(*[nothing] * 7, spans=torch.empty(7, 4), first_span=first_span)
    order = sorted(pairs)
    query, group = (torch.tensor([pair[i] for pair in order], dtype=torch.int64) for i in (0, 1))
    found = []
    for listed, places in list_queries(groups, query, group, block, block * blocks):
        assert len(listed) == block * len(places) <= block * blocks
        for rows, span in zip(listed.reshape(-1, block).tolist(), places.tolist(), strict=True):
            assert rows[0] >= 0
            found += [(q, span) for q in rows if q >= 0]
    spans = {g: range(int(first_span[g]), int(first_span[g + 1])) for g in range(5)}
    assert sorted(found) == sorted((q, s) for q, g in pairs for s in spans[g])


def estimates(groups, u, sigma):
    """Return s, s_max, log mass without and with few decisive keys, and log a of these, in float64."""
    mean, variance = groups.mean.double().cpu().numpy(), groups.variance.double().cpu().numpy()
    d2, lam, log_n = (u[:, None] - mean) ** 2, 1 / sigma**2, np.log(groups.n.double().cpu().numpy())
    s, s_max = lam * np.sqrt((variance * d2).sum(-1)), np.sqrt(2 * log_n) + 0 * d2[..., 0]
    held = np.minimum(s, s_max)
    jensen = log_n - lam / 2 * (d2.sum(-1) + variance.sum(-1))
    gaussian = log_n - 0.5 * ((d2 / (sigma**2 + variance)).sum(-1) + np.log(1 + lam * variance).sum(-1))
    return s, s_max, np.minimum(jensen + held * (s - held / 2), gaussian), lam, d2, variance, log_n, jensen


def oracle(groups, u, sigma, log_z, threshold, summed):
    """The groups to open, and the sums over the others, from the formulas of docs/mathematics.md."""
    s, s_max, log_mass, lam, d2, variance, log_n, _ = estimates(groups, u, sigma)
    log_mass = log_mass - log_z[:, None]
    m = lam * (d2.sum(-1) + variance.sum(-1))
    tau2 = 1.3 * lam**2 * ((variance * d2).sum(-1) + 0.5 * (variance**2).sum(-1)) / m
    x = np.maximum(np.sqrt(np.maximum(m - tau2, 0)) - np.sqrt(np.maximum(-2 * log_z, 0))[:, None], 0)
    nearest = 0.5 * log_n - x**2 / tau2 / (4 + 4 / 80 * x**2 / tau2) - 2
    far = s > s_max
    mass = np.exp(np.where(far, np.minimum(log_mass, nearest), log_mass))
    a = np.where(far, np.exp(nearest), mass * np.expm1(np.minimum(s, s_max)))
    done = np.zeros(a.shape, bool)
    np.put_along_axis(done, summed, True, axis=1)
    opened = ~done & (a > math.exp(threshold))
    mass, a = (np.where(done | opened, 0, x) for x in (mass, a))
    cross, gain = groups.cross[:, 0].double().cpu().numpy(), 1 / (sigma**2 + variance)
    d = u[:, None] - groups.mean.double().cpu().numpy()
    shrink = s_max / np.maximum(s, s_max)
    t = groups.target[:, 0].double().cpu().numpy() + shrink * (cross * gain * d).sum(-1)
    t2 = np.maximum(groups.target_variance[:, 0].double().cpu().numpy() - (cross**2 * gain).sum(-1), 0) + t**2
    sums = {"w": mass, "wt": mass * t, "wt2": mass * t2, "a2": a**2, "a2t": a**2 * t, "a2t2": a**2 * t2}
    return opened, {name: values.sum(axis=1) for name, values in sums.items()}


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.6])
def test_closed_groups_are_summed_by_their_moments(backend, groups, images, sigma):
    queries, basis = queries_of(images, sigma), backend.key_tree.basis
    u = (queries.u.double().cpu().numpy() - basis.mean) @ basis.axes
    tables = GroupTables(groups, float(queries.precision))
    distances = tables.distances(torch.from_numpy(u).float().to(DEVICE))
    guess = probe(tables, distances, 1)
    threshold = -3.0
    opened, sums, _ = close(tables, distances, guess.log_mass.float(), threshold, guess.group, ALL)
    log_z = guess.log_mass.float().double().cpu().numpy()
    right_opened, right = oracle(groups, u, sigma, log_z, threshold, guess.group.cpu().numpy())
    assert (opened.cpu().numpy() == right_opened).mean() > 0.99  # some errors are at the threshold
    same = (opened.cpu().numpy() == right_opened).all(axis=1)
    assert same.sum() >= 18
    found = torch.cat([sums.moments, sums.error_variance], dim=1).cpu().numpy()
    expected = np.column_stack(list(right.values()))
    np.testing.assert_allclose(found[same], expected[same], rtol=2e-3, atol=1e-6)


def test_the_probe_estimates_the_sum_and_finds_the_heaviest_group(backend, groups, images):
    sigma = 0.6
    queries, basis = queries_of(images, sigma), backend.key_tree.basis
    u = (queries.u.double().cpu().numpy() - basis.mean) @ basis.axes
    tables = GroupTables(groups, float(queries.precision))
    guess = probe(tables, tables.distances(torch.from_numpy(u).float().to(DEVICE)), 3)
    *_, jensen = found = estimates(groups, u, sigma)
    np.testing.assert_array_equal(guess.group[:, 0].cpu(), found[2].argmax(axis=1))
    trusted = np.minimum(found[2], jensen + 2)
    np.testing.assert_allclose(guess.log_mass.cpu(), np.log(np.exp(trusted).sum(axis=1)), atol=1e-4)


@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_opening_all_groups_is_exact(backend, images, sigma):
    queries = queries_of(images, sigma, 6)
    found = backend.fused_hybrid.sums(queries, SumSpec("hybrid", threshold=-80.0, outputs=ALL))
    exact = exact_sums(backend.keys, queries, SumSpec(outputs=ALL))
    assert found.keys_evaluated.tolist() == exact.keys_evaluated.tolist()
    ours, theirs = found.posterior(1), exact.posterior(1)
    assert agreement(ours.mean.cpu(), theirs.mean.cpu().numpy()) >= 80
    assert agreement(ours.variance.cpu(), theirs.variance.cpu().numpy()) >= 80
    np.testing.assert_allclose(ours.ess.cpu(), theirs.ess.cpu(), rtol=2e-3)
    np.testing.assert_allclose(ours.log_density.cpu(), theirs.log_density.cpu(), atol=0.01)
    assert (ours.error == 0).all()


def test_whole_patches_of_closed_groups(backend, groups, images):
    sigma, basis = 0.5, backend.key_tree.basis
    queries = queries_of(images, sigma, 6)
    u = (queries.u.double().cpu().numpy() - basis.mean) @ basis.axes
    tables, on_device = GroupTables(groups, 1 / sigma**2), torch.from_numpy(u).float().to(DEVICE)
    distances = tables.distances(on_device)
    guess = probe(tables, distances, 1)
    outputs = Outputs(patch=True)
    _, sums, masses = close(tables, distances, guess.log_mass.float(), 80.0, guess.group, outputs)
    axes, centre = (torch.from_numpy(x).to(DEVICE).double() for x in (basis.axes, basis.mean))
    found = patch_sums(tables, on_device, masses, axes, centre).cpu().numpy()
    s, s_max, log_mass, _, _, variance, _, _ = estimates(groups, u, sigma)
    mass = np.exp(log_mass - guess.log_mass.cpu().numpy()[:, None])
    np.put_along_axis(mass, guess.group.cpu().numpy(), 0.0, axis=1)
    mean = groups.mean.double().cpu().numpy()
    moved = (s_max / np.maximum(s, s_max))[..., None] * variance / (sigma**2 + variance) * (u[:, None] - mean)
    along = (mass[..., None] * (mean + moved)).sum(axis=1)
    right = along @ basis.axes.T.astype(float) + mass.sum(axis=1, keepdims=True) * basis.mean
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(sums.moments[:, 0].cpu(), mass.sum(axis=1), rtol=1e-3)


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
@pytest.mark.parametrize(
    "asked",
    [
        {"sigma": 0.3, "accuracy_db": 60, "maps": ("variance", "ess", "error")},
        {"sigma": 0.3, "accuracy_db": 40, "aggregate": "overlap"},
    ],
    ids=str,
)
def test_images_agree_as_requested(lemmse, images, asked):
    """The threshold is chosen on a sample of the image itself: without a calibration, and for any image."""
    y = images[0, :5, :5] / 255 + 0.1 * np.random.default_rng(2).standard_normal((5, 5, 1))
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
