"""Changes of the loaded indexes while the server answers: AdminService and --watch."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index, update
from lemmse.index.storage import pinned
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.server.tokens import add_token
from lemmse.v1 import admin_pb2 as admin
from lemmse.v1 import index_pb2
from lemmse.v1.admin_pb2_grpc import AdminServiceStub
from lemmse.v1.index_pb2_grpc import IndexServiceStub
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from lemmse.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor
from tests.support.requests import request

PATIENCE = 30
SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN
Y = np.random.default_rng(5).random((4, 4), np.float32)
ASKED = request(y=Tensor(dtype=DATA_TYPE_FLOAT32, shape=Y.shape, data=Y.tobytes()), sigma=0.1, index="photos")


def made(folder, seed=0):
    np.save(folder.parent / f"{seed}.npy", np.random.default_rng(seed).random((2, 6, 6), np.float32))
    return build([folder.parent / f"{seed}.npy"], folder, patch_size=3)


def grown(folder):
    """Add an image as version 2, and leave version 1 the current one."""
    np.save(folder.parent / "more.npy", np.zeros((1, 6, 6), np.float32))
    update([folder.parent / "more.npy"], folder)
    (folder / "CURRENT").write_text("1\n")
    return folder


def answer(folder, version):
    """What a version answers, in bytes."""
    lemmse = Reconstructor(open_index(folder, version=version), device="cpu")
    return lemmse.reconstruct(Y, sigma=0.1).image.tobytes()


class Stubs:
    def __init__(self, channel):
        self.admin = AdminServiceStub(channel)
        self.indexes = IndexServiceStub(channel)
        self.reconstruction = ReconstructionServiceStub(channel)
        self.health = HealthStub(channel)

    def names(self):
        listed = self.indexes.ListIndexes(index_pb2.ListIndexesRequest()).indexes
        return [(index.name, index.version) for index in listed]

    def wait_for(self, service, status):
        """Wait until a service has a status."""
        for said in self.health.Watch(HealthCheckRequest(service=service), timeout=PATIENCE):
            if said.status == status:
                return

    def wait_for_version(self, version):
        deadline = Event()
        for _ in range(PATIENCE * 50):
            if ("photos", version) in self.names():
                return
            deadline.wait(0.02)
        raise AssertionError(f"version {version} was not taken up")


@contextmanager
def serving(tmp_path, *indexes, **settings):
    """Stubs of a server, with a token of the role admin."""
    token = add_token(tmp_path / "tokens", "admin")
    config = ServerConfig(
        indexes=indexes, listen="127.0.0.1:0", threads=1, tokens=tmp_path / "tokens", **settings
    )
    server = Server(config)
    try:
        channel = grpc.intercept_channel(grpc.insecure_channel(server.address), _WithToken(token))
        yield Stubs(channel)
    finally:
        server.stop(0)


class _WithToken(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, token):
        self._metadata = (("authorization", f"Bearer {token}"),)

    def intercept_unary_unary(self, continuation, details, request):
        return continuation(details._replace(metadata=self._metadata), request)

    intercept_unary_stream = intercept_unary_unary


def refusal(call, message):
    with pytest.raises(grpc.RpcError) as caught:
        call(message)
    return caught.value.code().name, caught.value.details()


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr("lemmse.server.watch._INTERVAL", 0.05)


def test_indexes_are_loaded_and_unloaded(tmp_path):
    made(tmp_path / "photos")
    (tmp_path / "root").mkdir()
    made(tmp_path / "root" / "more", seed=1)
    with serving(tmp_path, tmp_path / "photos", admin_root=tmp_path / "root") as stubs:
        loaded = stubs.admin.LoadIndex(admin.LoadIndexRequest(folder="more")).index
        assert (loaded.name, loaded.digest) == (
            "more",
            open_index(tmp_path / "root" / "more").manifest.digest,
        )
        assert stubs.names() == [("more", "1"), ("photos", "1")]
        stubs.wait_for("index/more", SERVING)
        stubs.admin.UnloadIndex(admin.UnloadIndexRequest(name="photos"))
        assert stubs.names() == [("more", "1")]
        stubs.wait_for("index/photos", UNKNOWN)
        assert refusal(stubs.reconstruction.Reconstruct, ASKED)[0] == "NOT_FOUND"
        assert refusal(stubs.admin.UnloadIndex, admin.UnloadIndexRequest(name="photos"))[0] == "NOT_FOUND"
        stubs.admin.UnloadIndex(admin.UnloadIndexRequest(name="more"))
        stubs.wait_for("", NOT_SERVING)
        stubs.admin.LoadIndex(admin.LoadIndexRequest(folder=str(tmp_path / "root" / "more")))
        stubs.wait_for("", SERVING)


def test_only_what_is_below_the_root_is_loaded(tmp_path):
    made(tmp_path / "photos")
    made(tmp_path / "other", seed=1)
    root = tmp_path / "root"
    (root / "photos").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "other")
    (root / "circle").symlink_to(root / "circle")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "file").write_bytes(b"")
    with serving(tmp_path, tmp_path / "photos") as stubs:
        code, message = refusal(stubs.admin.LoadIndex, admin.LoadIndexRequest(folder="photos"))
        assert (code, "without --admin-root" in message) == ("PERMISSION_DENIED", True)
    with serving(tmp_path, tmp_path / "photos", admin_root=root) as stubs:
        for folder in ("../other", str(tmp_path / "other"), "link", "", ".", "/"):
            code, message = refusal(stubs.admin.LoadIndex, admin.LoadIndexRequest(folder=folder))
            assert (code, "below --admin-root" in message) == ("PERMISSION_DENIED", True)
        for folder, code in (
            ("nothing", "NOT_FOUND"),
            ("photos", "INVALID_ARGUMENT"),
            ("a\0b", "INVALID_ARGUMENT"),
            ("circle", "NOT_FOUND"),
            ("circle/below", "NOT_FOUND"),
            ("dangling", "NOT_FOUND"),
            ("file", "NOT_FOUND"),
            ("n" * 300, "NOT_FOUND"),
            ("n/" * 3000 + "n", "NOT_FOUND"),
        ):
            found, message = refusal(stubs.admin.LoadIndex, admin.LoadIndexRequest(folder=folder))
            assert found == code
            assert str(tmp_path) not in message
        assert stubs.names() == [("photos", "1")]


@pytest.mark.usefixtures("often")
def test_health_follows_indexes_that_come_and_go(tmp_path):
    made(tmp_path / "photos")
    names = [f"more{number}" for number in range(4)]
    for name in names:
        shutil.copytree(tmp_path / "photos", tmp_path / "root" / name)
    with serving(tmp_path, tmp_path / "photos", admin_root=tmp_path / "root") as stubs:

        def come_and_go(name):
            for _ in range(3):
                stubs.admin.LoadIndex(admin.LoadIndexRequest(folder=name))
                stubs.admin.UnloadIndex(admin.UnloadIndexRequest(name=name))
                with pytest.raises(grpc.RpcError) as caught:
                    stubs.health.Check(HealthCheckRequest(service=f"index/{name}"))
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            stubs.admin.LoadIndex(admin.LoadIndexRequest(folder=name))
            return stubs.health.Check(HealthCheckRequest(service=f"index/{name}")).status

        with ThreadPoolExecutor(len(names)) as pool:
            assert list(pool.map(come_and_go, names)) == [SERVING] * len(names)


def test_a_version_becomes_the_current_one_without_a_mixed_answer(tmp_path):
    folder = grown(made(tmp_path / "photos"))
    expected = {version: answer(folder, version) for version in ("1", "2")}
    with serving(tmp_path, folder) as stubs, ThreadPoolExecutor(2) as pool:
        ended = Event()

        def ask():
            seen = []
            while not ended.is_set():
                response = stubs.reconstruction.Reconstruct(ASKED)
                seen.append(response.diagnostics.version)
                assert response.image.data == expected[seen[-1]]
            return seen

        asking = [pool.submit(ask) for _ in range(2)]
        for version in ("2", "1", "2"):
            index = stubs.admin.SetCurrentVersion(
                admin.SetCurrentVersionRequest(name="photos", version=version)
            ).index
            assert index.version == version
            assert (folder / "CURRENT").read_text() == f"{version}\n"
            assert stubs.reconstruction.Reconstruct(ASKED).diagnostics.version == version
        ended.set()
        for asked in asking:
            assert set(asked.result()) <= {"1", "2"}


def test_a_bad_version_changes_nothing(tmp_path):
    folder = grown(made(tmp_path / "photos"))
    path = folder / "2" / "sources.json"
    path.write_bytes(path.read_bytes().replace(b"more", b"less"))
    with serving(tmp_path, folder) as stubs:
        for version, code in (
            ("2", "DATA_LOSS"),
            ("3", "NOT_FOUND"),
            ("../1", "NOT_FOUND"),
            ("", "NOT_FOUND"),
        ):
            asked = admin.SetCurrentVersionRequest(name="photos", version=version)
            found, message = refusal(stubs.admin.SetCurrentVersion, asked)
            assert found == code
            assert str(tmp_path) not in message
        assert (folder / "CURRENT").read_text() == "1\n"
        assert stubs.names() == [("photos", "1")]


@pytest.mark.usefixtures("often")
def test_a_new_version_and_a_calibration_are_taken_up(tmp_path):
    folder = made(tmp_path / "photos")
    with serving(tmp_path, folder, watch=True) as stubs:
        np.save(tmp_path / "more.npy", np.zeros((1, 6, 6), np.float32))
        update([tmp_path / "more.npy"], folder)
        stubs.wait_for_version("2")
        # A damaged version is not taken up; the next good one is.
        path = folder / "1" / "sources.json"
        good = path.read_bytes()
        path.write_bytes(good[::-1])
        (folder / "CURRENT").write_text("1\n")
        assert stubs.reconstruction.Reconstruct(ASKED).diagnostics.version == "2"
        path.write_bytes(good)
        (folder / "1" / "manifest.json").touch()  # as when it is calibrated
        stubs.wait_for_version("1")
        shutil.rmtree(folder)
        assert stubs.reconstruction.Reconstruct(ASKED).image.data


@pytest.mark.usefixtures("often")
def test_an_index_that_is_lost_is_not_ready_while_others_are(tmp_path, monkeypatch):
    monkeypatch.setattr(pinned, "IN_MEMORY", 0)
    folder = made(tmp_path / "photos")
    made(tmp_path / "more", seed=1)
    with serving(tmp_path, folder, tmp_path / "more") as stubs:
        stubs.wait_for("index/photos", SERVING)
        os.truncate(folder / "1/shards/0000/arrays.zarr/keys/c/0/0/0", 0)
        code, message = refusal(stubs.reconstruction.Reconstruct, ASKED)
        assert (code, str(tmp_path) in message) == ("DATA_LOSS", False)
        stubs.wait_for("index/photos", NOT_SERVING)
        stubs.wait_for("index/more", SERVING)
        stubs.wait_for("", SERVING)
