"""`client.admin`: the indexes of a server, changed by the synchronous and the asyncio client."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from lemmse.client import aio, connect
from lemmse.client.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from lemmse.index import build, update
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.server.tokens import add_token


class Waiting:
    """`admin` of an asyncio client, whose methods wait."""

    def __init__(self, loop, client):
        self._loop, self._client = loop, client

    def __getattr__(self, name):
        def call(*args, **options):
            coroutine = getattr(self._client.admin, name)(*args, **options)
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

        return call


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the indexes photos, of two versions, and more; a server of photos, and its tokens."""
    folder = tmp_path_factory.mktemp("admin")
    for seed, name in enumerate(("photos", "more")):
        np.save(folder / f"{name}.npy", np.random.default_rng(seed).random((2, 6, 6), np.float32))
        build([folder / f"{name}.npy"], folder / name, patch_size=3)
    np.save(folder / "grown.npy", np.zeros((1, 6, 6), np.float32))
    update([folder / "grown.npy"], folder / "photos")
    tokens = {role: add_token(folder / "tokens", role) for role in ("read", "admin")}
    config = ServerConfig(
        indexes=(folder / "photos",),
        listen="127.0.0.1:0",
        threads=1,
        tokens=folder / "tokens",
        admin_root=folder,
    )
    server = Server(config)
    yield folder, f"grpc://{server.address}", tokens
    server.stop(0)


@pytest.fixture(params=["sync", "aio"])
def opened(request, loop, made):
    """A function that returns `admin` of a client with a token."""
    clients = []

    def connected(target, token=None):
        if request.param == "sync":
            clients.append(connect(target, token=token))
            return clients[-1].admin

        async def asynchronous():
            return aio.connect(target, token=token)

        clients.append(asyncio.run_coroutine_threadsafe(asynchronous(), loop).result())
        return Waiting(loop, clients[-1])

    yield connected
    for client in clients:
        closing = client.close()
        if closing is not None:
            asyncio.run_coroutine_threadsafe(closing, loop).result()


def test_versions_and_indexes_change(made, opened):
    folder, target, tokens = made
    admin = opened(target, tokens["admin"])
    for version in ("1", "2"):
        info = admin.set_current_version("photos", version, timeout=60)
        assert (info.name, info.version) == ("photos", version)
        assert (folder / "photos/CURRENT").read_text() == f"{version}\n"
    info = admin.load_index("more")
    with connect(target, token=tokens["read"]) as reader:
        assert info == reader.get_index("more")
        assert admin.unload_index("more") is None
        assert [index.name for index in reader.list_indexes()] == ["photos"]


def test_the_errors_are_those_of_the_service(made, opened):
    folder, target, tokens = made
    admin = opened(target, tokens["admin"])
    damaged = folder / "photos/3"
    damaged.mkdir(exist_ok=True)
    (damaged / "manifest.json").write_text("{")
    for call, error, message in (
        (lambda: admin.load_index("nothing"), NotFound, "folder: expected an index folder"),
        (lambda: admin.load_index("/etc"), PermissionDenied, "below --admin-root"),
        (lambda: admin.unload_index("nothing"), NotFound, "expected one of photos"),
        (lambda: admin.set_current_version("photos", "9"), NotFound, "version"),
        (lambda: admin.set_current_version("photos", "3"), DataLoss, "damaged on the server"),
        (
            lambda: admin.set_current_version("photos", 2),
            InvalidArgument,
            "version: expected a string, got 2",
        ),
        (lambda: admin.load_index(None), InvalidArgument, "folder: expected a string, got None"),
        (lambda: admin.load_index("more", timeout="soon"), InvalidArgument, "timeout: "),
        (lambda: opened(target, tokens["read"]).unload_index("photos"), PermissionDenied, "role admin"),
        (lambda: opened(target).unload_index("photos"), Unauthenticated, "expected a token"),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert str(folder) not in str(caught.value)


def test_it_needs_one_server(made, opened, tiny_index):
    *_, tokens = made
    for target, message in (
        (tiny_index, "has index folders"),
        ("grpc://localhost:1,localhost:2", "one server"),
    ):
        with pytest.raises(FailedPrecondition, match=f"^admin: expected .*{message}"):
            opened(target, None if target is tiny_index else tokens["admin"]).unload_index("tiny")


def test_a_closed_client_says_so(made):
    _, target, tokens = made
    client = connect(target, token=tokens["admin"])
    admin = client.admin
    client.close()
    for call in (lambda: client.admin, lambda: admin.unload_index("photos")):
        with pytest.raises(FailedPrecondition, match="closed"):
            call()


def test_the_example_of_the_documentation(made):
    folder, target, tokens = made
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if ".admin." in block
    ]
    example = example.replace("grpcs://gpu1:50051", target).replace('"faces"', '"more"')
    names = {"token": tokens["admin"]}
    exec(example, names)
    assert (names["index"].name, names["index"].version) == ("photos", "1")
    assert (folder / "photos/CURRENT").read_text() == "1\n"
