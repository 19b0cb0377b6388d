"""An index whose keys are on Dask workers, from the client, the command and the server."""

import sys

import distributed
import numpy as np
import pytest

from lemmse.client import connect
from lemmse.client.errors import InvalidArgument, NotFound, Unavailable
from lemmse.client.serving import LEMMSE
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from tests.support.commands import invoke
from tests.support.processes import run_process

pytestmark = pytest.mark.slow

Y = np.random.default_rng(3).random((6, 5), np.float32)
ASKED = {"sigma": 0.1, "mode": "exact", "maps": ["variance", "ess"]}


def workers(count: int):
    return distributed.LocalCluster(
        n_workers=count, threads_per_worker=1, processes=False, dashboard_address=":0"
    )


@pytest.fixture(scope="module")
def scheduler():
    with workers(2) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module", params=["remote", "embedded"])
def spread(request, tiny_index, scheduler):
    """Both kinds of client of an index that workers hold."""
    if request.param == "embedded":
        with connect(tiny_index, scheduler=scheduler) as client:
            yield client
        return
    config = ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1, scheduler=scheduler)
    server = Server(config)
    with connect(f"grpc://{server.address}") as client:
        yield client
    server.stop(0)


def test_answers_as_without_workers(spread, embedded):
    found, expected = (client.reconstruct(Y, **ASKED) for client in (spread, embedded))
    for name in ("image", "variance", "ess"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-6)
    assert found.diagnostics.keys_touched == expected.diagnostics.keys_touched == 72
    named, wanted = (client.explain(Y, sigma=0.1, pixel=(2, 3), top=3) for client in (spread, embedded))
    assert [(c.image, c.row, c.column) for c in named] == [(c.image, c.row, c.column) for c in wanted]


def test_topk_is_refused(spread):
    with pytest.raises(InvalidArgument, match="mode: expected auto, exact or hybrid with a scheduler"):
        spread.reconstruct(Y, sigma=0.1, mode="topk")


def test_the_command(tiny_index, embedded, scheduler, tmp_path):
    np.save(tmp_path / "y.npy", Y)
    arguments = (tmp_path / "y.npy", "--out", tmp_path / "x.npy", "--index", tiny_index, "--sigma", 0.1)
    status, _, stderr = invoke("reconstruct", *arguments, "--scheduler", scheduler)
    assert (status, stderr) == (0, "")
    np.testing.assert_allclose(
        np.load(tmp_path / "x.npy"), embedded.reconstruct(Y, sigma=0.1).image, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("where", ["reconstruct", "serve"])
def test_an_address_where_no_scheduler_is(tiny_index, tmp_path, where):
    np.save(tmp_path / "y.npy", Y)
    arguments = {
        "reconstruct": (
            tmp_path / "y.npy",
            "--out",
            tmp_path / "x.npy",
            "--sigma",
            0.1,
            "--index",
            tiny_index,
        ),
        "serve": (tiny_index, "--listen", "127.0.0.1:0"),
    }
    command = [*LEMMSE, where, *map(str, arguments[where])]
    done = run_process([*command, "--scheduler", "nonsense"])
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("lemmse: error: scheduler: expected the address of a Dask scheduler, got nonsense")
    assert not (tmp_path / "x.npy").exists()


def test_a_server_has_its_own(server, tmp_path):
    np.save(tmp_path / "y.npy", Y)
    arguments = (tmp_path / "y.npy", "--out", tmp_path / "x.npy", "--sigma", 0.1, "--server", server.address)
    status, _, stderr = invoke("reconstruct", *arguments, "--scheduler", "tcp://127.0.0.1:1")
    assert status == 2
    assert "expected --scheduler with --index only" in stderr
    with pytest.raises(InvalidArgument, match="scheduler: expected none with a server"):
        connect(f"grpc://{server.address}", scheduler="tcp://127.0.0.1:1")


def test_who_is_asked_for_an_index_may_be_gone(tiny_index, monkeypatch):
    for module in ("lemmse.estimator.distributed", "lemmse.index.dask_workers"):
        monkeypatch.setattr(f"{module}.PATIENCE", 0.5)
    with workers(1) as cluster:
        embedded = connect(tiny_index, scheduler=cluster.scheduler_address)
        config = {"indexes": (tiny_index,), "listen": "127.0.0.1:0", "threads": 1}
        server = Server(ServerConfig(**config, scheduler=cluster.scheduler_address))
    with embedded, pytest.raises(Unavailable, match="scheduler: "):
        embedded.reconstruct(Y, sigma=0.1)
    with (
        connect(f"grpc://{server.address}") as remote,
        pytest.raises(Unavailable, match=r"the workers that hold the index do not answer \(reference "),
    ):
        remote.reconstruct(Y, sigma=0.1)
    server.stop(0)


def test_without_dask_it_is_said_what_to_install(tiny_index, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InvalidArgument, match=r"scheduler: needs dask.distributed: pip install .*dask"):
        connect(tiny_index, scheduler="tcp://127.0.0.1:1")


@pytest.mark.slow
def test_without_a_scheduler_dask_is_not_loaded(tiny_index):
    code = f"import sys, lemmse.client; lemmse.client.connect({str(tiny_index)!r})"
    code += "; raise SystemExit('distributed' in sys.modules)"
    assert run_process([sys.executable, "-c", code]).returncode == 0


def test_no_scheduler_at_an_address(tiny_index):
    with pytest.raises(NotFound, match="scheduler: expected the address of a Dask scheduler, got nonsense"):
        connect(tiny_index, scheduler="nonsense")
