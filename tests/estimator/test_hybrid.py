"""The hybrid posterior: all keys or none opened, and what it says about its own error."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from lemmse.calibration import calibrate
from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.estimator import Outputs, Queries, Reconstructor, SumSpec, exact_sums, hybrid_sums
from lemmse.estimator.hybrid import estimate_log_z
from lemmse.estimator.hybrid.probe import probe
from lemmse.estimator.hybrid.traversal import traverse
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.sum_spec import NormalizerEstimate
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.oracle import agreement

EVERYTHING = Outputs(variance=True, ess=True)
SIGMAS = (0.01, 0.05, 0.2, 0.5, 1.0, 5.0)


def images(count: int, seed: int) -> np.ndarray:
    return np.stack([smooth(seed + k, 24, 24, 3) for k in range(count)])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    np.save(folder / "images.npy", images(12, 0))
    return open_index(build([folder / "images.npy"], folder / "index", patch_size=3))


@pytest.fixture(scope="module")
def local(index):
    return LocalBackend(index, torch.device("cpu"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Keys of which not all coordinates are leading ones."""
    folder = tmp_path_factory.mktemp("wide")
    np.save(folder / "images.npy", images(4, 0))
    return LocalBackend(open_index(build([folder / "images.npy"], folder / "index")), torch.device("cpu"))


@pytest.fixture(scope="module")
def calibrated(index):
    curve = calibrate(index, sigmas=(0.05, 0.1, 0.2, 0.5, 1.0))
    known = replace(index, manifest=replace(index.manifest, calibration=curve))
    return Reconstructor(known, device="cpu")


def patches(local, sigma: float, count: int = 100, noise: float | None = None) -> Queries:
    """Patches of an image that is not in the index, with noise of standard deviation σ or `noise`."""
    rng = np.random.default_rng(3)
    u = local.patches(images(1, 900).astype(np.float64), np.arange(count))
    noisy = (u + (sigma if noise is None else noise) * rng.standard_normal(u.shape)).astype(np.float32)
    return Queries.white(torch.from_numpy(noisy), sigma)


def known_of(local, queries: Queries) -> NormalizerEstimate:
    estimate = estimate_log_z(local.key_tree, queries, SumSpec("estimate"))
    return NormalizerEstimate(estimate.log_max.numpy(), estimate.top_key[:, 0].numpy())


@pytest.mark.parametrize("sigma", SIGMAS)
def test_what_a_first_look_finds_may_be_given(local, sigma):
    queries = patches(local, sigma)
    expected = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=-3.0, outputs=EVERYTHING))
    known = known_of(local, queries)
    found = hybrid_sums(
        local.key_tree, queries, SumSpec("hybrid", threshold=-3.0, outputs=EVERYTHING, normalizer=known)
    )
    for name in ("mean", "variance", "ess", "log_density"):
        a, b = (getattr(sums.posterior(3), name) for sums in (found, expected))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)
    read = estimate_log_z(local.key_tree, queries, SumSpec("estimate")).keys_evaluated
    assert torch.equal(found.keys_evaluated + read, expected.keys_evaluated)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_what_other_keys_outweigh_stays_closed(local, sigma):
    queries = patches(local, sigma)
    known = known_of(local, queries)
    outweighed = NormalizerEstimate(known.log_z + 100 + 2 / sigma**2, np.full(len(queries), -1))
    sums = hybrid_sums(
        local.key_tree, queries, SumSpec("hybrid", threshold=-3.0, outputs=EVERYTHING, normalizer=outweighed)
    )
    assert not sums.keys_evaluated.any()
    share = torch.exp(sums.log_max - torch.from_numpy(outweighed.log_z)) * sums.moments[:, 0]
    assert (share < 1e-6).all()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_opening_everything_is_the_exact_sum(local, sigma):
    queries = patches(local, sigma)
    opened = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=-1e4, outputs=EVERYTHING))
    exact = exact_sums(local.keys, queries, SumSpec(outputs=EVERYTHING))
    slack = 1e-5 + 1e-7 * (1 + queries.u.shape[1]) / sigma**2  # of log w, in float32
    for name in ("mean", "variance", "ess", "log_density"):
        a, b = (getattr(sums.posterior(3), name) for sums in (opened, exact))
        torch.testing.assert_close(a, b, rtol=4 * slack, atol=4 * slack, msg=name)


def nearest_targets(index, y, mask, sigma) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest target of the keys that may be heaviest at each pixel, for all float32 can tell."""
    local = LocalBackend(index, torch.device("cpu"))
    u, seen = (
        local.patches(np.broadcast_to(x, y.shape)[None].astype(float), np.arange(y[..., 0].size))
        for x in (y, mask)
    )
    v, t = index.keys(0, index.manifest.distinct).astype(float), index.targets(0, index.manifest.keys)
    t_low, t_high = (
        reduce(t, index.key_patches[:-1]) for reduce in (np.minimum.reduceat, np.maximum.reduceat)
    )
    squares = np.stack([seen[i] @ np.square(u[i] - v).T for i in range(len(u))])
    least = squares.min(axis=1, keepdims=True)
    near = squares <= least * (1 + 4 * v.shape[1] * np.finfo(np.float32).eps) + 40 * sigma**2
    low = np.stack([t_low[row].min(axis=0) for row in near])
    high = np.stack([t_high[row].max(axis=0) for row in near])
    return low.reshape(y.shape), high.reshape(y.shape)


@pytest.mark.slow
@pytest.mark.parametrize("error", [None, "estimated", "certified"])
@pytest.mark.parametrize("sigma", [1e-6, 1e-5, 1e-3])
@pytest.mark.parametrize("kind", ["other image", "training image", "in 0 to 255", "mask"])
def test_log_weights_of_thousands_of_millions_do_not_lead_astray(index, reconstructor, kind, sigma, error):
    y = images(1, 900)[0, :12, :12] if kind != "training image" else images(12, 0)[3]
    y = y + sigma * np.random.default_rng(2).standard_normal(y.shape)
    if kind == "in 0 to 255":
        y *= 255
    mask = (np.arange(y[..., 0].size).reshape(y.shape[:2]) % 17 > 0) | (kind != "mask")
    end = time.monotonic() + 60
    found = reconstructor.reconstruct(
        y,
        sigma=sigma,
        mask=mask if kind == "mask" else None,
        mode="hybrid",
        maps=["error"] if error else [],
        error=error or "estimated",
        cancelled=lambda: time.monotonic() > end,
    )
    low, high = nearest_targets(index, y, mask[..., None], sigma)
    assert np.mean(low == high) > 0.5
    assert (low - 1e-5 <= found.image).all()
    assert (found.image <= high + 1e-5).all()


def weighted(queries: Queries, kind: str) -> Queries:
    """The queries as a noise map or a mask per request sees them: NaN where nothing was observed."""
    rng = np.random.default_rng(7)
    factor = {
        "noise map": np.exp(rng.normal(0, 0.5, queries.u.shape)),
        "random mask": (rng.random(queries.u.shape) < 0.5).astype(float),
        "one channel": np.broadcast_to(np.arange(queries.u.shape[1]) % 3 == 1, queries.u.shape).astype(float),
    }[kind]
    precision = torch.from_numpy(factor.astype(np.float32)) * queries.precision
    return Queries(queries.u.where(precision > 0, torch.nan), precision)


WEIGHTED = ("noise map", "random mask", "one channel")


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_opening_everything_is_the_exact_sum_of_a_precision_for_each_pixel(local, sigma, kind):
    queries = weighted(patches(local, sigma), kind)
    opened = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=-1e4, outputs=EVERYTHING))
    seen = Queries(queries.u.nan_to_num(), queries.precision)
    exact = exact_sums(local.keys, seen, SumSpec(outputs=EVERYTHING))
    slack = 1e-5 + 1e-6 * (1 + queries.u.shape[1]) / sigma**2  # of log w, in float32
    for name in ("mean", "variance", "ess", "log_density"):
        a, b = (getattr(sums.posterior(3), name) for sums in (opened, exact))
        torch.testing.assert_close(a, b, rtol=4 * slack, atol=4 * slack, msg=name)


@pytest.mark.parametrize("kind", WEIGHTED)
@pytest.mark.parametrize("sigma", [0.05, 0.2, 1.0])
def test_more_work_agrees_better_with_a_precision_for_each_pixel(local, sigma, kind):
    queries = weighted(patches(local, sigma), kind)
    exact = exact_sums(local.keys, Queries(queries.u.nan_to_num(), queries.precision)).posterior(3).mean
    reached, touched = [], []
    for threshold in (0.0, -4.0, -12.0):
        sums = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=threshold))
        reached.append(min(90.0, agreement(sums.posterior(3).mean.numpy(), exact.numpy())))
        touched.append(float(sums.keys_evaluated.double().mean()))
    assert touched == sorted(touched)
    assert reached[-1] >= 60


@pytest.mark.parametrize("threshold", [1e4, 0, -5])
def test_every_key_counts_once_with_a_precision_for_each_pixel(local, threshold):
    queries = weighted(patches(local, 1e4, noise=1.0), "noise map")
    sums = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=threshold))
    log_count = (sums.log_max + sums.moments[:, 0].log()).numpy()
    np.testing.assert_allclose(log_count, math.log(sum(local.extent.weights)), atol=1e-5)


def moments_oracle(cells, u: np.ndarray, sigma: float) -> tuple[np.ndarray, float, float]:
    """Mean, Σ w and Σ w t² of one query over all cells as Gaussians that n keys bound, in float64."""
    total, first, second = 0.0, 0.0, 0.0
    for block, lane in zip(*np.nonzero(cells.n), strict=True):
        n, leading = float(cells.n[block, lane]), cells.leading.shape[1]
        mean, variance = cells.leading[block, :, :, lane].astype(float).T
        mean = np.append(mean, cells.others[block, :, lane])
        variance = np.append(variance, np.full(len(mean) - leading, cells.variance[block, lane]))
        cross = np.zeros((3, len(mean)))
        cross[:, :leading] = cells.cross[block, :, :, lane]
        d = np.append(u, np.zeros(len(mean) - len(u))) - mean
        s = math.sqrt((variance * d * d).sum()) / sigma**2
        assert s <= math.sqrt(2 * math.log(n))
        bound = math.log(n) - ((d * d).sum() + variance.sum()) / (2 * sigma**2) + s * s / 2
        gaussian = math.log(n) - 0.5 * (
            (d * d / (sigma**2 + variance)).sum() + np.log1p(variance / sigma**2).sum()
        )
        mass = math.exp(min(bound, gaussian))
        gain = cross / (sigma**2 + variance)
        t = cells.target[block, :, lane] + gain @ d
        spread = np.maximum(0, cells.target_variance[block, :, lane] - (gain * cross).sum(axis=1))
        total, first, second = total + mass, first + mass * t, second + mass * (t * t + spread)
    return first / total, total, second / total


@pytest.mark.parametrize("sigma", [1.5, 3.0, 8.0])
@pytest.mark.parametrize("of", ["local", "wide"])
def test_opening_nothing_is_the_sum_over_the_moments_of_cells(of, sigma, request):
    local = request.getfixturevalue(of)
    queries = patches(local, sigma, count=10)
    sums = hybrid_sums(
        local.key_tree, queries, SumSpec("hybrid", threshold=1e4, budget=1, outputs=EVERYTHING)
    )
    posterior = sums.posterior(3)
    assert not sums.keys_evaluated.any()
    for q, u in enumerate(local.key_tree.basis.rotate(queries.u.numpy()).astype(float)):
        mean, total, second = moments_oracle(local.key_tree.tree.cells, u, sigma)
        # Cells below e^−16 of the weight are left out, and scores are float32.
        np.testing.assert_allclose(posterior.mean[q], mean, atol=1e-4)
        np.testing.assert_allclose(posterior.variance[q], second - mean**2, atol=1e-4)
        assert float(posterior.log_density[q]) == pytest.approx(math.log(total), abs=1e-3)


@pytest.mark.parametrize("threshold", [1e4, 0, -2, -5, -1e4])
def test_every_key_counts_once(local, threshold):
    """At overwhelming noise every weight is 1, so that they add up to the number of keys."""
    sums = hybrid_sums(local.key_tree, patches(local, 1e4, noise=1.0), SumSpec("hybrid", threshold=threshold))
    log_count = (sums.log_max + sums.moments[:, 0].log()).numpy()
    np.testing.assert_allclose(log_count, math.log(sum(local.extent.weights)), atol=1e-5)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_more_work_agrees_better(local, sigma):
    queries = patches(local, sigma)
    exact = exact_sums(local.keys, queries).posterior(3).mean
    reached, touched = [], []
    for threshold in (0.0, -4.0, -8.0):
        sums = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=threshold))
        reached.append(min(90.0, agreement(sums.posterior(3).mean.numpy(), exact.numpy())))
        touched.append(float(sums.keys_evaluated.double().mean()))
    assert reached == sorted(reached)
    assert touched == sorted(touched)
    assert reached[-1] >= 60


@pytest.mark.parametrize("budget", [1, 50, 400, 2000])
@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_no_query_exceeds_the_budget(local, sigma, budget):
    queries = patches(local, sigma)
    sums = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=-8, budget=budget))
    free = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=-8))
    assert int(sums.keys_evaluated.max()) <= budget
    assert int(free.keys_evaluated.max()) > 400
    assert torch.isfinite(sums.posterior(3).mean).all()
    within = free.keys_evaluated <= budget  # what the budget does not concern
    torch.testing.assert_close(sums.take(within).moments, free.take(within).moments)


def test_the_same_question_has_the_same_answer(local):
    queries = patches(local, 0.2)
    first, again = (
        hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=-4)).posterior(3) for _ in range(2)
    )
    assert torch.equal(first.mean, again.mean)


def test_the_number_of_threads_does_not_matter(local):
    queries = patches(local, 0.2)
    threads = torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            key_tree = replace(local.key_tree)  # with threads of its own
            answers.append(hybrid_sums(key_tree, queries, SumSpec("hybrid", threshold=-4)).posterior(3).mean)
    finally:
        torch.set_num_threads(threads)
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-9, atol=1e-9)


def test_cancelling_ends_the_call(local):
    with pytest.raises(Cancelled):
        hybrid_sums(
            local.key_tree, patches(local, 0.2), SumSpec("hybrid", threshold=-4, cancelled=lambda: True)
        )


def adversarial(index, sigma: float) -> np.ndarray:
    """An image of patches that lie at, between and far from the keys, and where moments mislead most."""
    rng = np.random.default_rng(11)
    stack = index.images()
    known = np.asarray(stack[0], np.float64)
    between = (np.asarray(stack[1], np.float64) + np.asarray(stack[2], np.float64)) / 2
    far = rng.choice([-3.0, 4.0], known.shape)
    spike = np.zeros(known.shape)
    spike[::3, ::3] = 1
    parts = [known, between, far, spike, np.full(known.shape, 0.5)]
    y = np.concatenate([part[:6] for part in parts])
    return y + sigma * rng.standard_normal(y.shape) * (rng.random((*y.shape[:1], 1, 1)) < 0.5)


@pytest.fixture(scope="module")
def reconstructor(index):
    return Reconstructor(index, device="cpu")


@pytest.fixture(scope="module", params=[0.003, 0.03, 0.1, 0.3, 1.0, 10.0])
def attack(request, index, reconstructor):
    """A noise level, an adversarial image, and its exact reconstruction."""
    y = adversarial(index, request.param)
    return request.param, y, reconstructor.reconstruct(y, sigma=request.param, mode="exact").image


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 300, None])
@pytest.mark.parametrize("accuracy_db", [20, 50])
def test_the_certified_error_cannot_be_exceeded(reconstructor, attack, accuracy_db, budget):
    sigma, y, exact = attack
    result = reconstructor.reconstruct(
        y,
        sigma=sigma,
        mode="hybrid",
        accuracy_db=accuracy_db,
        budget=budget,
        maps=["error"],
        error="certified",
    )
    assert (np.abs(result.image - exact.astype(float)) <= result.error).all()
    assert result.error.max() <= 1 + 1e-4  # the width of the targets' range
    within = (result.error <= 10 ** (-accuracy_db / 20)).mean()
    assert result.diagnostics.certified == pytest.approx(within)


@pytest.mark.parametrize("accuracy_db", [30, 50])
def test_enough_keys_certify_nearly_all_that_is_within_the_tolerance(index, accuracy_db):
    y = adversarial(index, 0.05)
    server = Reconstructor(index, device="cpu")
    result = server.reconstruct(
        y,
        sigma=0.05,
        mode="hybrid",
        accuracy_db=accuracy_db,
        budget=10**6,
        maps=["error"],
        error="certified",
    )
    off = np.abs(result.image - server.reconstruct(y, sigma=0.05, mode="exact").image)
    within = (off <= 10 ** (-accuracy_db / 20)).mean()
    assert within > 0.9
    assert result.diagnostics.certified > 0.98 * within


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
@pytest.mark.parametrize("accuracy_db", [30, 40, 50, 60])
@pytest.mark.parametrize("sigma", [0.07, 0.1, 0.3, 0.7])
def test_a_calibrated_index_keeps_its_word_on_new_images(calibrated, sigma, accuracy_db, aggregate):
    rng = np.random.default_rng(5)
    off, errors, expected = [], [], []
    for clean in images(4, 500):
        y = clean + sigma * rng.standard_normal(clean.shape)
        asked = {"sigma": sigma, "aggregate": aggregate}
        exact = calibrated.reconstruct(y, mode="exact", **asked).image
        result = calibrated.reconstruct(y, mode="hybrid", accuracy_db=accuracy_db, maps=["error"], **asked)
        off.append(np.abs(result.image.astype(float) - exact))
        errors.append(result.error)
        expected.append(result.diagnostics.expected_accuracy_db)
    assert (np.stack(off) <= np.stack(errors)).mean() >= 0.95
    assert min(expected) >= accuracy_db - 1e-6
    reached = -10 * math.log10(np.square(np.stack(off)).mean() + 1e-30)
    assert reached >= accuracy_db - 2  # the calibration is a measurement on other patches


def test_auto_takes_hybrid_beyond_its_exact_work(index, calibrated):
    y = images(1, 700)[0]
    assert Reconstructor(index, device="cpu").reconstruct(y, sigma=0.1).diagnostics.mode == "exact"
    assert (
        Reconstructor(index, device="cpu", exact_work=1.0).reconstruct(y, sigma=0.1).diagnostics.mode
        == "hybrid"
    )
    eager = Reconstructor(calibrated.index, device="cpu", exact_work=1.0)
    assert eager.reconstruct(y, sigma=0.1, accuracy_db=119).diagnostics.mode == "exact"  # out of reach


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"accuracy_db": 0}, r"accuracy_db: expected dB in \(0, 120\], got 0"),
        ({"accuracy_db": "high"}, "accuracy_db: expected a number of dB, got 'high'"),
        ({"budget": 0}, "budget: expected a whole number >= 1, got 0"),
        ({"error": "sure"}, "error: expected one of estimated, certified, got 'sure'"),
        ({"mode": "topk", "maps": ["error"]}, "maps: expected other maps than error for mode topk"),
        ({"mode": "hybrid", "estimator": "mmse"}, "mode: expected auto or exact for mmse, got hybrid"),
    ],
)
def test_what_cannot_be_meant_is_refused(index, asked, message):
    with pytest.raises(InvalidArgument, match=message):
        Reconstructor(index, device="cpu").reconstruct(images(1, 700)[0], sigma=0.1, **asked)


@pytest.mark.parametrize("asked", ["mask", "sigma"])
def test_a_mask_or_a_noise_map_is_hybrid_too(calibrated, asked):
    rng = np.random.default_rng(6)
    clean = images(1, 700)[0]
    y = clean + 0.1 * rng.standard_normal(clean.shape)
    given = {"sigma": 0.1, "mask": rng.random(clean.shape[:2]) < 0.7}
    if asked == "sigma":
        given = {"sigma": np.where(given["mask"], 0.1, 0.2)}
    exact = calibrated.reconstruct(y, mode="exact", **given)
    result = calibrated.reconstruct(y, mode="hybrid", maps=["error"], **given)
    assert result.diagnostics.mode == "hybrid"
    assert result.diagnostics.expected_accuracy_db is None
    assert agreement(result.image, exact.image) >= 50
    less = calibrated.reconstruct(y, mode="hybrid", accuracy_db=20, **given)
    assert agreement(less.image, exact.image) >= 20
    assert less.diagnostics.keys_touched < result.diagnostics.keys_touched
    certified = calibrated.reconstruct(y, mode="hybrid", maps=["error"], error="certified", **given)
    assert certified.diagnostics.mode == "exact"
    assert certified.diagnostics.certified == 1


def test_no_request_compiles_what_was_prepared(index):
    server = Reconstructor(index, device="cpu")
    server.prepare()
    compiled = [list(loop.signatures) for loop in (probe, traverse)]
    assert all(compiled)
    y = images(1, 700)[0]
    for asked in ({}, {"mask": y > 0.3}, {"maps": ["error"], "error": "certified", "budget": 100}):
        server.reconstruct(y, sigma=0.2, mode="hybrid", **asked)
    assert [list(loop.signatures) for loop in (probe, traverse)] == compiled


def test_all_groups_have_one_layout(local):
    """The loops are compiled anew for each."""
    tree = local.key_tree.tree
    assert len(tree.cell_leaves) > 2
    for groups in (tree.cells, tree.leaves):
        assert {name for name, values in groups._asdict().items() if not values.flags.c_contiguous} == set()
