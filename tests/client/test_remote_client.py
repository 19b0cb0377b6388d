"""What only a remote client can meet: no server, a deadline, a call given up."""

import threading
import time

import grpc
import numpy as np
import pytest

from lemmse.client import connect
from lemmse.client.errors import BY_CODE, DeadlineExceeded, InvalidArgument, LemmseError, Unavailable
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server

IMAGE = np.zeros((4, 4))


def test_every_status_has_its_class():
    assert BY_CODE.keys() == {code.name for code in grpc.StatusCode} - {"OK"}
    assert len(set(BY_CODE.values())) == len(BY_CODE)
    assert all(issubclass(kind, LemmseError) for kind in BY_CODE.values())


@pytest.mark.parametrize(
    "target",
    ["", "grpc://", "grpc://host", "grpc://host:port", "grpc://a:1/b", "grpc://::1:5", "grpc://a:65536"],
)
def test_an_address_that_is_none(target):
    with pytest.raises(
        InvalidArgument, match="target: expected grpc://HOST:PORT, grpcs://HOST:PORT or an index folder"
    ):
        connect(target)


@pytest.mark.usefixtures("impatient_clients")
def test_no_server_there():
    start = time.monotonic()
    with connect("grpc://127.0.0.1:1") as client:
        for ask in (
            client.list_indexes,
            lambda: client.reconstruct(IMAGE, sigma=0.1),
            lambda: list(client.reconstruct_many([IMAGE], sigma=0.1)),
        ):
            with pytest.raises(Unavailable, match=r"^127\.0\.0\.1:1: .*is a server running there\?$"):
                ask()
    assert time.monotonic() - start < 10


def test_a_server_that_stays_away_ends_a_batch(tiny_index):
    server = Server(ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1))

    def images():
        yield from [IMAGE] * 4
        server.stop(0)
        yield IMAGE

    outcomes = []
    with connect(f"grpc://{server.address}") as client, pytest.raises(Unavailable):
        outcomes.extend(client.reconstruct_many(images(), sigma=0.1, timeout=3))
    assert len(outcomes) >= 2


@pytest.mark.slow
def test_a_deadline_stops_the_work(larger_index):
    """The exact sum here takes minutes; the next call is answered because it was stopped."""
    server = Server(ServerConfig(indexes=(larger_index,), listen="127.0.0.1:0", threads=1))
    with connect(f"grpc://{server.address}") as client:
        endless = np.zeros((900, 900), np.float32)
        with pytest.raises(DeadlineExceeded):
            client.reconstruct(endless, sigma=0.1, mode="exact", timeout=0.3)
        half = endless[:450]
        with pytest.raises(DeadlineExceeded):
            client.vjp(half, sigma=0.1, vector=half, timeout=0.3)
        assert client.reconstruct(IMAGE, sigma=0.1, timeout=20).image.shape == (4, 4)
    server.stop(0)


@pytest.mark.slow
def test_leaving_a_batch_early_stops_the_work_and_leaves_no_thread(larger_index):
    server = Server(ServerConfig(indexes=(larger_index,), listen="127.0.0.1:0", threads=1))
    with connect(f"grpc://{server.address}") as client:
        client.reconstruct(IMAGE, sigma=0.1)
        before = set(threading.enumerate())
        images = [IMAGE, *[np.zeros((900, 900), np.float32)] * 3]
        outcomes = client.reconstruct_many(images, sigma=0.1, mode="exact")
        next(outcomes)
        # The server's own, which are in this process too and stay, are called "call" and "compute".
        started = [
            thread
            for thread in set(threading.enumerate()) - before
            if not thread.name.startswith(("call", "compute"))
        ]
        assert started
        outcomes.close()
        assert client.reconstruct(IMAGE, sigma=0.1, timeout=20).image.shape == (4, 4)
        for thread in started:
            thread.join(10)
            assert not thread.is_alive()
    server.stop(0)
