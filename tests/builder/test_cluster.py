"""A build on Dask workers is the build of one process."""

import sys

import distributed
import numpy as np
import pytest

from lemmse.builder.cluster import on_local_workers, on_scheduler
from lemmse.contract.errors import InvalidArgument, NotFound, Unavailable
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.commands import invoke
from tests.support.indexes import by_cell
from tests.support.processes import run_process


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    np.save(folder / "x.npy", np.stack([smooth(seed, 9, 8, 1) for seed in range(12)]))
    return folder / "x.npy"


@pytest.fixture(scope="module")
def alone(source, tmp_path_factory):
    return open_index(build([source], tmp_path_factory.mktemp("alone") / "index", patch_size=3))


def assert_same(found, expected):
    assert found.manifest.digest == expected.manifest.digest
    assert by_cell(found) == by_cell(expected)
    y = smooth(99, 9, 8, 1)
    a, b = (Reconstructor(index).reconstruct(y, sigma=0.1, mode="exact").image for index in (found, expected))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_workers_build_what_one_process_does(source, alone, tmp_path):
    arguments = ("--patch-size", 3, "--no-calibrate", "--workers", 2)
    status, _, stderr = invoke("build", source, "--out", tmp_path / "index", *arguments)
    assert (status, stderr) == (0, "")
    assert_same(open_index(tmp_path / "index"), alone)


@pytest.fixture(scope="module")
def scheduler():
    with distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def test_any_cluster_builds_what_one_process_does(source, alone, tmp_path, scheduler):
    done = []
    with on_scheduler(scheduler) as run:
        build([source], tmp_path / "index", patch_size=3, run=run, progress=lambda *call: done.append(call))
    assert_same(open_index(tmp_path / "index"), alone)
    assert {("assign patches", 1, 1), ("write shards", 1, 1)} <= set(done)


def test_what_fails_on_a_worker_is_told(tmp_path, scheduler):
    with on_scheduler(scheduler) as run, pytest.raises(NotFound, match="every worker must see it"):
        run(tmp_path / "nowhere", [("assign", 0)], lambda: None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", 0), "workers: expected a whole number >= 1, got 0"),
        (("--workers", 2, "--scheduler", "tcp://127.0.0.1:1"), "workers: expected none beside --scheduler"),
        (("--scheduler", "nonsense"), "scheduler: expected the address of a Dask scheduler, got nonsense"),
    ],
)
def test_workers_that_cannot_be_meant(source, tmp_path, options, message):
    status, stdout, stderr = invoke("build", source, "--out", tmp_path / "index", *options)
    assert (status, stdout) == (2, "")
    assert stderr.startswith(f"lemmse: error: {message}")
    assert stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_cluster_without_workers(source, tmp_path, monkeypatch):
    monkeypatch.setattr("lemmse.index.dask_workers.PATIENCE", 0.5)
    local = {"n_workers": 0, "processes": False, "dashboard_address": ":0"}
    with (
        distributed.LocalCluster(**local) as cluster,
        pytest.raises(Unavailable, match="scheduler: no worker is there at"),
        on_scheduler(cluster.scheduler_address) as run,
    ):
        build([source], tmp_path / "index", run=run)


def test_without_dask_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(InvalidArgument, match=r"workers: needs dask.distributed: pip install .*dask"),
        on_local_workers(2),
    ):
        pass


@pytest.mark.slow
def test_the_command_does_not_load_dask_without_need():
    code = "import sys, lemmse.builder.build; raise SystemExit('distributed' in sys.modules)"
    assert run_process([sys.executable, "-c", code]).returncode == 0
