"""Fixtures that several parts share: a tiny index, a server of it, and all kinds of client."""

import asyncio
import fcntl
import inspect
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lemmse.client import Client, aio, connect
from lemmse.index import build
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from tests.support.blocking import Blocking, event_loop

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

# Before click 8.2, its runner mixed stderr into stdout by default.
if "mix_stderr" in inspect.signature(CliRunner).parameters:
    CliRunner.__init__ = partialmethod(CliRunner.__init__, mix_stderr=False)

# A first example that imports or compiles something takes longer than the others: that is no failure.
hypothesis.settings.register_profile("lemmse", deadline=None)
hypothesis.settings.load_profile("lemmse")


FIRST = (
    "tests/estimator/test_extremes.py",
    "tests/estimator/test_fused.py",
    "tests/estimator/test_memory.py",
    "tests/contract/test_threads.py",
    "tests/index/test_files.py",
    "tests/benchmarks/test_training.py",
)
"""A module that compiles the loops of hybrid for all kinds of keys, and others that need none of them.

A second process that needs the loops before they are kept would compile them too.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let modules with many slow tests, and then those with many tests, come first.

    The processes of `make test` take one module after the other, so that all end at about the same time.
    """
    slow, count = Counter[str](), Counter[str]()
    for item in items:
        module = item.nodeid.partition("::")[0]
        count[module] += 1
        slow[module] += item.get_closest_marker("slow") is not None

    def place(item: pytest.Item) -> tuple[int, int, int, str]:
        module = item.nodeid.partition("::")[0]
        first = FIRST.index(module) if module in FIRST else len(FIRST)
        return first, -slow[module], -count[module], module

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def children_with_default_signals() -> None:
    """Have child processes start with the default of the signals that this process was started to ignore.

    An ignored signal stays ignored in a child, a caught one does not. `nohup`, cron and `&` in a script start
    programs so.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return the folder of a name, which the first of all processes of `make test` has filled.

    What is in it is only read: the tests of other processes read it too.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"

    def folder_of(name: str, fill: Callable[[Path], object]) -> Path:
        folder = shared / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "made").open("a") as made:  # holds a character once the folder is filled
            fcntl.flock(made, fcntl.LOCK_EX)
            if os.fstat(made.fileno()).st_size == 0:
                fill(folder)
                made.write(".")
        return folder

    return folder_of


@pytest.fixture(scope="session")
def tiny_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two grey images of 6 × 6: 72 keys of 3 × 3."""
    folder = tmp_path_factory.mktemp("tiny")
    np.save(folder / "images.npy", np.random.default_rng(0).random((2, 6, 6), np.float32))
    return build([folder / "images.npy"], folder / "tiny", patch_size=3)


@pytest.fixture(scope="session")
def larger_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys enough to make the exact sum over a large image take minutes."""
    folder = tmp_path_factory.mktemp("larger")
    np.save(folder / "images.npy", np.random.default_rng(1).random((20, 32, 32), np.float32))
    return build([folder / "images.npy"], folder / "larger", patch_size=5)


@pytest.fixture(scope="session")
def server(tiny_index: Path) -> Iterator[Server]:
    """A server of the tiny index."""
    server = Server(ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1))
    yield server
    server.stop(0)


@pytest.fixture(scope="session")
def remote(server: Server) -> Iterator[Client]:
    with connect(f"grpc://{server.address}") as client:
        yield client


@pytest.fixture(scope="session")
def embedded(tiny_index: Path) -> Iterator[Client]:
    with connect(tiny_index) as client:
        yield client


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The event loop of the asyncio clients."""
    with event_loop() as loop:
        yield loop


@pytest.fixture(scope="session")
def aio_remote(loop: asyncio.AbstractEventLoop, server: Server) -> Iterator[Blocking]:
    with Blocking(loop, lambda: aio.connect(f"grpc://{server.address}")) as client:
        yield client


@pytest.fixture(scope="session")
def aio_embedded(loop: asyncio.AbstractEventLoop, tiny_index: Path) -> Iterator[Blocking]:
    with Blocking(loop, lambda: aio.connect(tiny_index)) as client:
        yield client


@pytest.fixture(params=["synchronous", "asyncio"])
def connect_any(
    request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop
) -> Callable[..., Client | Blocking]:
    """`connect` of the synchronous client and of the asyncio one."""
    if request.param == "synchronous":
        return connect
    return lambda *args, **kwargs: Blocking(loop, lambda: aio.connect(*args, **kwargs))


@pytest.fixture(params=["remote", "embedded", "aio_remote", "aio_embedded"])
def client(request: pytest.FixtureRequest) -> Client | Blocking:
    """All kinds of client, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def impatient_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients try for half a second to reach a server that never answered, instead of five."""
    monkeypatch.setattr("lemmse.client.attempts._UNKNOWN", 0.5)


@pytest.fixture
def topk_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mode topk search for the nearest keys even if it is asked for all of them."""
    monkeypatch.setattr("lemmse.estimator.modes._FEW", 0)
