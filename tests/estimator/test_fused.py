"""The fused kernel against the oracle: all kinds of keys, lengths and outputs, at every noise.

Without a GPU it runs in Triton's interpreter, on a few small blocks.
"""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lemmse.contract.errors import Cancelled
from lemmse.estimator import Outputs, Queries, Reconstructor, SumSpec, exact_sums
from lemmse.estimator import device_rows as rows_module
from lemmse.estimator.device_rows import DeviceRows
from lemmse.estimator.fused import Form, FusedKeys
from lemmse.estimator.fused import sums as sums_module
from lemmse.index import build, open_index
from tests.support.bounds import within_bounds
from tests.support.fused import BLOCKS, DEVICE, GPU, KINDS, expected, fused_sums, in_parts, keys_of, needs_gpu
from tests.support.oracle import agreement
from tests.support.problems import PROBLEMS
from tests.support.processes import run_process

ALL = Outputs(variance=True, ess=True, patch=True)
SIGMAS = (1e-3, 0.01, 0.1, 1.0, 1e3)
TARGETS = Outputs(variance=True, ess=True)


@pytest.fixture(autouse=True, scope="module")
def all_accesses():
    with within_bounds():
        yield


def decibels(sigma):
    return 80 if sigma >= 0.01 else 60


def near(kind, sigma, *, p=9, count=100, queries=5, t=3, repeated=False, seed=0):
    """Keys, a third of which are near the queries for this σ, so that several have weight."""
    rng = np.random.default_rng(seed)
    v = rng.random((count, p))
    some = rng.integers(0, queries, count // 3)
    v[: count // 3] = np.clip(v[-1 - some] + sigma * rng.standard_normal((count // 3, p)) / np.sqrt(p), 0, 1)
    if kind == "levels":
        v = np.rint(255 * v) / 255
        v -= v.mean(axis=1, keepdims=True)
    rng.shuffle(v[:-queries])
    n = rng.integers(1, 400, count) if repeated else None
    keys = keys_of(kind, v, rng.random((count, t)), n)
    u = v[-queries:] + sigma * rng.standard_normal((queries, p))
    return keys, Queries.white(torch.from_numpy(u), sigma)


def check(found, right, sigma, outputs=ALL):
    assert agreement(found.mean.cpu(), right["mean"]) >= decibels(sigma)
    if outputs.variance:
        assert agreement(found.variance.cpu(), right["variance"]) >= decibels(sigma)
    if outputs.ess:
        np.testing.assert_allclose(found.ess.cpu(), right["ess"], rtol=0.02 if sigma < 0.01 else 2e-3)
    if outputs.patch:
        assert agreement(found.patch.cpu(), right["patch"]) >= decibels(sigma)
        if outputs.variance:
            assert agreement(found.patch_variance.cpu(), right["patch_variance"]) >= decibels(sigma)
    np.testing.assert_allclose(found.log_density.cpu(), right["log_density"], rtol=1e-6, atol=0.03)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_keys_at_every_noise(kind, sigma):
    keys, queries = near(kind, sigma, repeated=sigma == 0.1)
    sums = fused_sums(keys, queries, ALL)
    check(sums.posterior(3), expected(keys, queries), sigma)
    assert sums.keys_evaluated.tolist() == [100] * 5


@pytest.mark.parametrize("sigma", SIGMAS[:-1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_resolves_these_itself(kind, sigma):
    keys, queries = near(kind, sigma)
    queries = queries.to(DEVICE)
    forms = FusedKeys(keys, BLOCKS).forms(queries)
    # The fractions of float keys have eleven bits.
    assert (forms != Form.NONE).all() == (kind != "floats" or sigma > 1e-3)


@pytest.mark.parametrize(("p", "count", "queries"), [(1, 70, 17), (75, 70, 3), (147, 40, 3), (363, 40, 3)])
@pytest.mark.parametrize("sigma", [1e-3, 0.1])
def test_short_and_long_keys(p, count, queries, sigma):
    keys, asked = near("bytes", sigma, p=p, count=count, queries=queries)
    check(fused_sums(keys, asked, TARGETS).posterior(3), expected(keys, asked), sigma, TARGETS)


def test_the_longest_keys():
    keys, asked = near("bytes", 0.3, p=12_288, count=20, queries=2, t=1)
    check(fused_sums(keys, asked, Outputs()).posterior(1), expected(keys, asked), 0.3, Outputs())


@pytest.mark.parametrize("t", [1, 4, 31, 40])
def test_short_and_long_targets(t):
    keys, asked = near("bytes", 0.1, t=t)
    check(fused_sums(keys, asked, TARGETS).posterior(t), expected(keys, asked), 0.1, TARGETS)


@pytest.mark.parametrize("kind", ["bytes", "floats"])
@pytest.mark.parametrize("distance", [-3.0, 50.0, 300.0, 1e6])
def test_queries_far_from_all_keys(kind, distance):
    """Some are no float16 numbers in units of the keys; the products sum these."""
    keys, asked = near(kind, 0.2)
    asked = replace(asked, u=asked.u + distance * torch.linspace(0.9, 1.0, 9, dtype=torch.float64))
    found, right = fused_sums(keys, asked, TARGETS).posterior(3), expected(keys, asked)
    assert agreement(found.mean.cpu(), right["mean"]) >= 60
    np.testing.assert_allclose(found.log_density.cpu(), right["log_density"], rtol=1e-6)


def test_one_outlier_leaves_the_other_coordinates_their_say():
    keys, asked = near("bytes", 0.05)
    asked.u[:, 4] += 40.0
    check(fused_sums(keys, asked, TARGETS).posterior(3), expected(keys, asked), 0.05, TARGETS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [1e-3, 0.05])
def test_masks_and_noise_maps(kind, sigma):
    keys, asked = near(kind, sigma)
    rng = np.random.default_rng(1)
    deviation = sigma * 10 ** rng.uniform(0, 1, asked.u.shape)
    deviation[:2] = sigma
    precision = (rng.random(asked.u.shape) < 0.7) / deviation**2
    precision[1] = 0.0
    u = asked.u.where(torch.from_numpy(precision > 0), torch.nan)
    queries = Queries(u, torch.from_numpy(precision))
    check(fused_sums(keys, queries, ALL).posterior(3), expected(keys, queries), sigma)


def test_strata_and_parts_that_begin_anywhere():
    rng = np.random.default_rng(2)
    v, strata = rng.random((330, 9)), (0, 37, 37, 300, 330)
    keys = keys_of(
        "floats", v * np.linspace(1, 9, 330)[:, None], rng.random((330, 3)), None, strata, (50, 180)
    )
    for stratum in (0, 2, 3):
        some = v[strata[stratum] : strata[stratum] + 4] * 5
        queries = Queries.white(torch.from_numpy(some), 2.0, stratum)
        sums = fused_sums(keys, queries, ALL)
        check(sums.posterior(3), expected(keys, queries), 2.0)
        assert sums.keys_evaluated[0] == keys.count_in(stratum)


@pytest.mark.parametrize("v", [np.full((3, 9), 0.4), np.full((1, 9), 0.2)], ids=["equal", "one"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [1e-6, 0.1, 1e6])
def test_keys_that_do_not_differ(kind, v, sigma):
    keys = keys_of(kind, v, np.random.default_rng(3).random((len(v), 1)))
    queries = Queries.white(torch.from_numpy(v[:1] + 1e-4), sigma)
    found, right = fused_sums(keys, queries, TARGETS).posterior(1), expected(keys, queries)
    np.testing.assert_allclose(found.mean.cpu(), right["mean"], rtol=1e-6)
    np.testing.assert_allclose(found.ess.cpu(), right["ess"], rtol=1e-6)


def test_what_is_left_to_the_products():
    keys, asked = near("bytes", 0.1)
    fused = FusedKeys(keys, BLOCKS)
    assert fused.computes(ALL)
    assert not fused.computes(Outputs(top=3))
    assert fused_sums(keys, asked, Outputs(top=3)).top_key.shape == (5, 3)


def test_cancelling_stops_between_spans(monkeypatch):
    monkeypatch.setattr(sums_module, "_PAIRS", 1)
    keys, asked = near("bytes", 0.1, count=300)
    asked = asked.to(DEVICE)
    polls = []

    def cancelled():
        polls.append(len(polls))
        return len(polls) == 2

    with pytest.raises(Cancelled):
        exact_sums(keys, asked, SumSpec(cancelled=cancelled), FusedKeys(keys, BLOCKS))
    assert len(polls) == 2


@pytest.fixture(scope="module")
def images():
    images = np.random.default_rng(4).integers(0, 256, (3, 6, 6, 3)).astype(np.uint8)
    images[1, :3] = 7  # equal patches
    return images


@pytest.fixture(scope="module", params=["none", "offset"])
def index(request, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused")
    np.save(folder / "x.npy", images)
    how = {"patch_size": 3, "equivariance": request.param}
    return open_index(build([folder / "x.npy"], folder / "index", **how))


class TestReconstructions:
    """Whole images, by an index and with all features: the kernel answers as the products do."""

    MAPS = ("variance", "ess", "log_density")

    def compare(self, index, y, **asked):
        lemmse = Reconstructor(index, device=str(DEVICE))
        backend, found = lemmse._backend, []
        for fused in (FusedKeys(backend.keys, BLOCKS), None):
            backend.fused = fused
            found.append(lemmse.reconstruct(y, mode="exact", maps=self.MAPS, **asked))
        ours, theirs = found
        assert agreement(ours.image, theirs.image) >= 80
        assert agreement(ours.variance, theirs.variance) >= 80
        np.testing.assert_allclose(ours.ess, theirs.ess, rtol=1e-3)
        np.testing.assert_allclose(ours.log_density, theirs.log_density, rtol=1e-6, atol=0.01)
        assert ours.diagnostics.keys_touched == theirs.diagnostics.keys_touched

    @pytest.mark.parametrize(
        "asked",
        [{"sigma": 0.002}, {"sigma": 0.1}, {"sigma": 0.2, "aggregate": "overlap"}],
        ids=str,
    )
    def test_white_noise(self, index, images, asked):
        self.compare(index, images[0, :4, :4] / 255 + 0.02, **asked)

    def test_refinements_masks_and_noise_maps(self, index, images):
        if index.manifest.equivariance != "none":
            pytest.skip("an index of equivariance offset has none of these")
        rng = np.random.default_rng(5)
        y = images[0, :3, :4] / 255 + 0.02
        self.compare(index, y, sigma=0.1, aggregate="overlap", bandwidth=0.02, gaussian_share=0.1)
        mask = rng.random(y.shape[:2]) < 0.5
        self.compare(index, y, sigma=rng.uniform(0.05, 0.5, y.shape[:2]), mask=mask, aggregate="overlap")

    @pytest.mark.parametrize("problem", [PROBLEMS[6], PROBLEMS[12]], ids=lambda problem: problem.name)
    def test_whitened_strata(self, problem, tmp_path):
        index = problem.build(tmp_path)
        self.compare(index, np.random.default_rng(6).random(problem.shape), sigma=0.1)


def test_rows_are_copied_part_by_part(monkeypatch):
    monkeypatch.setattr(rows_module, "_CHUNK", 1000)
    rows = np.random.default_rng(7).random((150, 5)).astype(np.float32)
    packed = in_parts(rows, (33, 70))
    copied = DeviceRows.copied(packed, DEVICE, 64)
    assert len(copied.values) == (64 + 64 + 96) * 5 + 64
    np.testing.assert_array_equal(copied.columns(20, 149).cpu().T, rows[20:149])
    np.testing.assert_array_equal(copied.of(torch.tensor([0, 69, 149])).cpu(), rows[[0, 69, 149]])


def test_compiled_kernels_are_kept_where_triton_can_write(monkeypatch, tmp_path):
    knobs = pytest.importorskip("triton").knobs
    from lemmse.estimator.fused.launch import find_cache

    file = tmp_path / "file"
    file.touch()
    for folder in (tmp_path / "own", file / "no folder"):
        monkeypatch.setattr(knobs.cache, "dir", str(folder))
        find_cache()
        assert (knobs.cache.dir == str(folder)) == folder.is_dir()
        assert Path(knobs.cache.dir).is_dir()


@pytest.mark.skipif(GPU, reason="torch sees a GPU")
def test_without_a_gpu_there_is_no_kernel():
    from lemmse.estimator.fused.launch import start

    assert FusedKeys.of(near("bytes", 0.1)[0]) is None
    with pytest.raises(RuntimeError):
        start()


@pytest.mark.slow
def test_it_compiles_for_gpus(tmp_path):
    """Triton needs no GPU to compile for some; what comes out uses their tensor cores.

    The kernels of the groups, whose time is that of arithmetic on registers, spill none.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.support.compile_fused", 90, 80, 100]
    done = run_process(command, 300.0, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    numbers = [[int(x) for x in re.findall(r" (\d+) [tbr]", line)] for line in done.stdout.splitlines()]
    assert len(numbers) == 4 + 4 + 2 * (1 + 4)
    assert all(products > 0 for products, *_ in numbers)
    of_groups = numbers[4:8], numbers[9:13], numbers[14:]
    assert all(spilled == 0 for capability in of_groups for *_, spilled in capability)


@needs_gpu
def test_blocks_are_tuned_and_kept():
    keys, asked = near("bytes", 0.1, count=5000)
    fused = FusedKeys.of(keys)
    fused.prepare()
    sums = exact_sums(keys, asked.to(DEVICE), SumSpec(outputs=TARGETS), fused)
    check(sums.posterior(3), expected(keys, asked), 0.1, TARGETS)


@pytest.mark.skipif(GPU, reason="torch sees a GPU")
@pytest.mark.parametrize("missing", ["codes", "norms", "targets"])
def test_accesses_outside_tensors_are_found(missing):
    keys, asked = near("bytes", 0.1)
    fused = FusedKeys(keys, BLOCKS)
    stratum = fused._stratum(0)
    if missing == "codes":
        fused._codes.values = fused._codes.values[: BLOCKS.span * 9 - 1]
    last = {"norms": stratum.norms[:1, :-1], "targets": stratum.targets[:-1]}
    fused._strata[0] = replace(stratum, **{name: last[name] for name in last if name == missing})
    with pytest.raises(Exception, match="accesses are outside all tensors"):
        exact_sums(keys, asked, SumSpec(), fused)
