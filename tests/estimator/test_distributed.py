"""The keys of an index on Dask workers: the answer is that of one process, and whole or an error."""

import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import DEVNULL

import dask
import distributed
import numpy as np
import pytest
import torch

from lemmse.contract.errors import Cancelled, DataLoss, InvalidArgument, NotFound, Unavailable
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Queries, Reconstructor, SumSpec
from lemmse.estimator.distributed import DistributedBackend
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.indexes import few_at_a_time
from tests.support.oracle import agreement
from tests.support.problems import PROBLEMS, mosaic
from tests.support.processes import start_process

pytestmark = pytest.mark.slow

MAPS = ("variance", "ess", "log_density")
SHAPE = (9, 8, 3)


def threads(workers: int, **options):
    """A scheduler, and so many workers in this process."""
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=":0", **options
    )


@pytest.fixture(scope="module")
def scheduler():
    with threads(3) as cluster:
        yield cluster.scheduler_address


@contextmanager
def small_shards(keys: int):
    with pytest.MonkeyPatch.context() as patched:
        few_at_a_time(patched, keys)
        patched.setattr("lemmse.index.building.key_model._LEAST_PER_CELL", 8)
        yield


def build_index(folder: Path, images: list[np.ndarray], **options):
    np.save(folder / "x.npy", np.stack(images))
    with small_shards(200):
        index = open_index(build([folder / "x.npy"], folder / "index", patch_size=3, **options))
    assert index.manifest.shards > 2
    return index


@contextmanager
def spread(index, scheduler, **options):
    reconstructor = Reconstructor(index, scheduler=scheduler, **options)
    try:
        yield reconstructor
    finally:
        reconstructor.close()


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    images = [smooth(seed, *SHAPE) for seed in range(8)]
    images[1][:] = images[0][0, 0]  # equal keys
    return build_index(tmp_path_factory.mktemp("spread"), images)


@pytest.fixture(scope="module")
def whole(index):
    return Reconstructor(index, device="cpu")


@pytest.fixture(scope="module")
def parts(index, scheduler):
    with spread(index, scheduler) as reconstructor:
        yield reconstructor


@pytest.mark.parametrize("sigma", [0.05, 0.3])
@pytest.mark.parametrize("options", [{}, {"aggregate": "overlap", "bandwidth": 0.05, "gaussian_share": 0.3}])
def test_derivatives_are_the_same_on_workers(whole, parts, monkeypatch, sigma, options):
    monkeypatch.setattr("lemmse.estimator.distributed._BLOCK", 7)
    y = measurement(sigma)
    vector = np.random.default_rng(3).standard_normal(y.shape)
    asked = Measurement.checked(y, sigma=sigma, mask=None), vector, Options(**options)
    found, expected = (one.differentiate(*asked) for one in (parts, whole))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("mode", ["exact", "hybrid"])
@pytest.mark.parametrize(("sigma", "times"), [(1e-6, 1), (1e-4, 1), (1e-4, 1e4), (0.02, 1e3), (1.0, 1e4)])
def test_what_float32_does_not_resolve_is_the_same_on_workers(whole, parts, mode, sigma, times):
    y = times * measurement(0.1)
    expected = whole.reconstruct(y, sigma=sigma, mode="exact")
    np.testing.assert_allclose(parts.reconstruct(y, sigma=sigma, mode=mode).image, expected.image, atol=1e-5)
    least = parts.reconstruct(y, sigma=sigma, mode="hybrid", budget=6, maps=(*MAPS, "error"))
    assert all(np.isfinite(getattr(least, name)).all() for name in ("image", "error", *MAPS))


def measurement(sigma=0.1):
    return smooth(70, *SHAPE) + sigma * np.random.default_rng(4).standard_normal(SHAPE)


def assert_same(found, expected, off=1e-5):
    np.testing.assert_allclose(found.image, expected.image, rtol=0, atol=off)
    for name in MAPS:
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=100 * off, atol=10 * off, err_msg=name)
    assert found.diagnostics.mode == expected.diagnostics.mode
    assert found.diagnostics.keys == expected.diagnostics.keys


@pytest.mark.parametrize("mode", ["exact", "hybrid"])
@pytest.mark.parametrize("exclude", [[0], [0, 1, 2, 4, 5, 6, 7]], ids=str)
def test_excluded_images_are_left_out_on_workers(whole, parts, mode, exclude):
    options = {"sigma": 0.2, "maps": MAPS, "mode": mode, "accuracy_db": 120, "exclude": exclude}
    assert_same(*(one.reconstruct(measurement(), **options) for one in (parts, whole)), off=1e-4)
    asked = {"sigma": 0.2, "pixel": (2, 3), "top": 5, "exclude": exclude}
    found, expected = (one.explain(measurement(), **asked).contributors for one in (parts, whole))
    assert [(one.image, one.row, one.column) for one in found] == [
        (one.image, one.row, one.column) for one in expected
    ]


@pytest.fixture(scope="module", params=PROBLEMS, ids=lambda problem: problem.name)
def problem(request):
    return request.param


@pytest.fixture(scope="module")
def of_problem(problem, tmp_path_factory, scheduler):
    with small_shards(50):
        index = problem.build(tmp_path_factory.mktemp("problem"))
    assert index.manifest.shards > 1
    with spread(index, scheduler) as reconstructor:
        yield reconstructor


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"mode": "exact"}, {"mode": "hybrid", "accuracy_db": 120}], ids=lambda o: o["mode"]
)
@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
def test_agrees_with_the_oracle(problem, of_problem, sigma, options):
    result = of_problem.reconstruct(problem.measurement(sigma), sigma=sigma, maps=MAPS, **options)
    expected = problem.expected(sigma)
    assert result.diagnostics.mode == options["mode"]
    assert agreement(result.image, expected.image) >= problem.decibels
    slack = 1e-4 + 1e-6 / sigma**2
    np.testing.assert_allclose(result.ess, expected.ess, rtol=10 * slack)
    np.testing.assert_allclose(result.variance, expected.variance, rtol=10 * slack, atol=1e-5)
    np.testing.assert_allclose(result.log_density, expected.log_density, rtol=1e-4, atol=10 * slack)


def requests():
    rng = np.random.default_rng(9)
    return {
        "sigma": {"sigma": 0.1},
        "much noise": {"sigma": 1.0},
        "noise map": {"sigma": rng.uniform(0.05, 0.5, SHAPE)},
        "mosaic": {"sigma": 0.1, "mask": mosaic(SHAPE)},
        "large hole": {"sigma": 0.1, "mask": np.arange(72).reshape(SHAPE[:2]) < 20},
        "overlap": {"sigma": 0.1, "aggregate": "overlap"},
        "bandwidth": {"sigma": 0.05, "bandwidth": 0.1},
        "Gaussians": {"sigma": 0.1, "gaussian_share": 0.3},
        "Gaussians only": {"sigma": 0.1, "gaussian_share": 1.0},
        "all three": {"sigma": 0.1, "aggregate": "overlap", "bandwidth": 0.05, "gaussian_share": 0.3},
        "images": {"sigma": 0.1, "estimator": "e-mmse"},
    }


@pytest.mark.parametrize("asked", requests().values(), ids=requests().keys())
def test_exact_is_that_of_one_process(whole, parts, asked):
    y = measurement()
    found, expected = (one.reconstruct(y, mode="exact", maps=MAPS, **asked) for one in (parts, whole))
    assert_same(found, expected)
    assert found.diagnostics.keys_touched == expected.diagnostics.keys_touched


WITH_MODES = {name: asked for name, asked in requests().items() if "estimator" not in asked}


@pytest.mark.parametrize("asked", WITH_MODES.values(), ids=WITH_MODES)
def test_hybrid_comes_as_near_as_it_is_asked(whole, parts, asked):
    y = measurement()
    exact = whole.reconstruct(y, mode="exact", **asked).image
    for accuracy_db in (30, 60, 120):
        found = parts.reconstruct(y, mode="hybrid", accuracy_db=accuracy_db, maps=["error"], **asked)
        assert found.diagnostics.mode == "hybrid"
        assert agreement(found.image, exact) >= min(accuracy_db, 80)
        assert np.isfinite(found.error).all()


@pytest.mark.parametrize("accuracy_db", [20, 50])
@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_the_certified_error_cannot_be_exceeded(whole, parts, sigma, accuracy_db):
    y = measurement(sigma)
    exact = whole.reconstruct(y, sigma=sigma, mode="exact").image
    asked = {"mode": "hybrid", "accuracy_db": accuracy_db, "maps": ["error"], "error": "certified"}
    for budget in (None, 30):
        found = parts.reconstruct(y, sigma=sigma, budget=budget, **asked)
        assert (np.abs(found.image - exact) <= found.error).all()


def test_hybrid_keeps_to_its_budget(parts):
    found = parts.reconstruct(measurement(), sigma=0.1, mode="hybrid", budget=30)
    assert found.diagnostics.keys_touched <= 30


def test_something_is_found_however_little_is_asked_for(tmp_path, scheduler):
    """Keys alike and far from all others: none outweighs what may be hidden, and no group is left closed."""
    rng = np.random.default_rng(0)
    alike = 0.9 + rng.integers(0, 2, (6, 6, 3)) / 255
    others = [0.2 * smooth(seed, 6, 6, 3) for seed in range(12)]
    keys = DistributedBackend(build_index(tmp_path, [alike, *others]), scheduler)
    queries = Queries.white(torch.full((1, 27), 1.0), 0.05)
    sums = keys.sums(queries, SumSpec("hybrid", threshold=12.0))
    keys.close()
    np.testing.assert_allclose(sums.posterior(3).mean, 0.9, atol=0.01)


def test_patches_without_their_level(tmp_path, scheduler):
    index = build_index(tmp_path, [smooth(seed, 8, 8, 1) for seed in range(9)], equivariance="offset")
    y = smooth(60, 8, 8, 1)
    with spread(index, scheduler) as parts:
        found, expected = (
            one.reconstruct(y, sigma=0.1, mode="exact", maps=MAPS) for one in (parts, Reconstructor(index))
        )
    assert_same(found, expected)


def test_explain_names_the_same_patches(whole, parts):
    y = measurement()
    found, expected = (one.explain(y, sigma=0.1, pixel=(4, 5), top=50) for one in (parts, whole))

    def weights(explanation):
        return {(c.image, c.row, c.column): c.weight for c in explanation.contributors}

    assert weights(found) == pytest.approx(weights(expected), rel=1e-3)
    heaviest = [c.weight for c in found.contributors]
    assert heaviest == sorted(heaviest, reverse=True)


def test_a_large_image_comes_in_several_tasks(whole, parts, monkeypatch):
    y = np.tile(measurement(), (3, 3, 1))
    expected = whole.reconstruct(y, sigma=0.1, mode="exact", maps=MAPS)
    monkeypatch.setattr("lemmse.estimator.distributed._BLOCK", 100)
    assert_same(parts.reconstruct(y, sigma=0.1, mode="exact", maps=MAPS), expected)
    mask = np.tile(mosaic(SHAPE), (3, 3, 1))
    found, expected = (one.reconstruct(y, sigma=0.1, mask=mask, mode="exact") for one in (parts, whole))
    assert_same(found, expected)


def test_auto_is_exact_up_to_the_work_given(index, scheduler):
    for exact_work, mode in ((1.0, "hybrid"), (1e12, "exact")):
        with spread(index, scheduler, exact_work=exact_work) as parts:
            assert parts.reconstruct(measurement(), sigma=0.1).diagnostics.mode == mode


def test_no_keys_are_in_this_process(index, scheduler, monkeypatch):
    with spread(open_index(index.folder.parent), scheduler) as parts:
        parts.prepare()
        parts.reconstruct(measurement(), sigma=0.1, mode="hybrid", maps=MAPS)
        assert not {"counts", "copies", "neighbours", "leaves"} & vars(parts.index).keys()


def test_what_cannot_be_asked(parts, index):
    with pytest.raises(
        InvalidArgument, match="mode: expected auto, exact or hybrid with a scheduler, got topk"
    ):
        parts.reconstruct(measurement(), sigma=0.1, mode="topk")
    with pytest.raises(NotFound, match="scheduler: expected the address of a Dask scheduler, got nonsense"):
        Reconstructor(index, scheduler="nonsense")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_workers_without_the_requested_gpu_are_an_error(index, scheduler):
    with pytest.raises(
        InvalidArgument, match="device: expected auto, cpu or a GPU that torch sees, got 'cuda'"
    ):
        Reconstructor(index, device="cuda", scheduler=scheduler)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_workers_sum_on_their_gpu(index, whole, scheduler):
    with spread(index, scheduler, device="cuda") as parts:
        found = parts.reconstruct(measurement(), sigma=0.1, mode="hybrid", maps=MAPS)
        assert found.diagnostics.mode == "exact"
        expected = whole.reconstruct(measurement(), sigma=0.1, mode="exact", maps=MAPS)
        assert agreement(found.image, expected.image) >= 80


def test_stops_when_nobody_waits(parts):
    polls = iter([False, True])
    with pytest.raises(Cancelled):
        parts.reconstruct(
            np.tile(measurement(), (40, 40, 1)), sigma=0.1, mode="exact", cancelled=lambda: next(polls)
        )


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("lemmse.estimator.distributed.PATIENCE", 0.5)
    monkeypatch.setattr("lemmse.index.dask_workers.PATIENCE", 0.5)


def test_a_shard_that_a_worker_finds_damaged_is_an_error(tmp_path, scheduler):
    index = build_index(tmp_path, [smooth(seed, 8, 8, 1) for seed in range(9)])
    path = next(path for path in index.folder.glob("shards/0001/arrays.zarr/keys/c/**/*") if path.is_file())
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataLoss, match=r"index 'index' version 1: shards/0001/.* is altered"):
        Reconstructor(index, scheduler=scheduler)


def test_without_workers(index, impatient):
    with (
        threads(0) as cluster,
        pytest.raises(Unavailable, match="no worker is there"),
    ):
        Reconstructor(index, scheduler=cluster.scheduler_address)


def test_a_scheduler_that_went_away(index, impatient):
    with threads(1) as cluster:
        parts = Reconstructor(index, scheduler=cluster.scheduler_address)
    with pytest.raises(Unavailable, match="scheduler: "):
        parts.reconstruct(measurement(), sigma=0.1)
    parts.close()


def test_a_scheduler_that_came_back_is_asked_again(index, whole, impatient):
    tcp = {"protocol": "tcp://", "host": "127.0.0.1"}
    with threads(1, **tcp) as cluster:
        parts, port = Reconstructor(index, scheduler=cluster.scheduler_address), cluster.scheduler.port
    with pytest.raises(Unavailable):
        parts.reconstruct(measurement(), sigma=0.1)
    with threads(1, scheduler_port=port, **tcp):
        deadline = time.monotonic() + 30
        while (found := answer_or_none(parts)) is None and time.monotonic() < deadline:
            pass  # the connection is being made
        assert_same(found, whole.reconstruct(measurement(), sigma=0.1))
        parts.close()


def answer_or_none(parts):
    try:
        return parts.reconstruct(measurement(), sigma=0.1)
    except Unavailable:
        return None


@contextmanager
def processes(count: int, failures: int = 3):
    """A client of a scheduler, and the processes of so many workers."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": failures}),
        threads(0, protocol="tcp://", host="127.0.0.1") as cluster,
        ExitStack() as stack,
    ):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        command += ["--no-nanny", "--nthreads", "1", "--no-dashboard"]
        running = [
            stack.enter_context(start_process(command, stdout=DEVNULL, stderr=DEVNULL)) for _ in range(count)
        ]
        try:
            with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
                client.wait_for_workers(count, timeout=60)
                yield client, running
        finally:
            for process in running:
                process.kill()
                process.wait()


def killing(process, client):
    """What kills a process, while all workers work, when it is asked whether anybody still waits."""

    def cancelled() -> bool:
        asks = sys._getframe(2).f_code.co_name
        if process.poll() is None and asks == "_results":  # not the validation, before there is work
            assert any(all(client.processing().values()) for _ in range(10_000))
            process.kill()
            process.wait()
        return False

    return cancelled


@pytest.mark.slow
def test_a_worker_that_retires_hands_over(index, whole):
    y, asked = measurement(), {"sigma": 0.1, "mode": "exact", "maps": MAPS}
    with processes(2) as (client, _), spread(index, client.scheduler.address) as parts:
        client.retire_workers(sorted(client.nthreads())[:1])
        assert_same(parts.reconstruct(y, **asked), whole.reconstruct(y, **asked))
        assert len(client.nthreads()) == 1


@pytest.mark.slow
def test_a_lost_worker_is_replaced_until_none_is_left(index, whole, impatient):
    y = np.tile(measurement(), (20, 20, 1))
    expected = whole.reconstruct(y, sigma=0.1, mode="exact", maps=MAPS)
    asked = {"sigma": 0.1, "mode": "exact", "maps": MAPS}
    with processes(2) as (client, (first, second)), spread(index, client.scheduler.address) as parts:
        assert_same(parts.reconstruct(y, **asked), expected)
        assert_same(parts.reconstruct(y, **asked, cancelled=killing(first, client)), expected)
        with pytest.raises(Unavailable, match="scheduler: no worker is left"):
            parts.reconstruct(y, **asked, cancelled=killing(second, client))


@pytest.mark.slow
def test_workers_that_are_lost_over_and_over_are_an_error_and_the_next_answer_is_whole(index, whole):
    y = np.tile(measurement(), (20, 20, 1))
    asked = {"sigma": 0.1, "mode": "exact", "maps": MAPS}
    with processes(2, failures=0) as (client, (first, _)), spread(index, client.scheduler.address) as parts:
        with pytest.raises(Unavailable, match="were lost again and again"):
            parts.reconstruct(y, **asked, cancelled=killing(first, client))
        assert_same(parts.reconstruct(y, **asked), whole.reconstruct(y, **asked))
