"""Connections and servers that fail in the middle of a batch: no image is lost, doubled or out of order."""

import os
import signal
import socket
import time
from collections import deque
from contextlib import ExitStack

import numpy as np
import pytest

from lemmse.client import channels, connect
from lemmse.client.serving import LEMMSE
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from tests.support.faults import Fault, faulty_proxy
from tests.support.processes import start_process

RNG = np.random.default_rng(11)
IMAGES = [RNG.random((8 + number, 30), np.float32) for number in range(12)]


@pytest.fixture(scope="module")
def expected(embedded):
    return [embedded.reconstruct(y, sigma=0.2).image for y in IMAGES]


def assert_all(outcomes, expected):
    assert len(outcomes) == len(expected)
    for outcome, image in zip(outcomes, expected, strict=True):
        np.testing.assert_array_equal(outcome.image, image)


def port_of(server) -> int:
    return int(server.address.rpartition(":")[2])


@pytest.mark.parametrize(
    ("fault", "sizes"),
    [(Fault.RESET, (1, 3000, 9000)), (Fault.FREEZE, (3000, 9000))],
    ids=["reset", "frozen"],
)
def test_connections_that_fail_in_mid_stream(connect_any, loop, server, expected, fault, sizes, monkeypatch):
    for option in ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"):
        monkeypatch.setitem(channels._OPTIONS, option, 300)
    pulled = []

    def images():
        for number, y in enumerate(IMAGES):
            pulled.append(number)
            yield y

    faults = deque((size, fault) for size in sizes)
    with (
        faulty_proxy(loop, port_of(server), faults=faults) as proxy,
        connect_any(f"grpc://127.0.0.1:{proxy.port}") as client,
    ):
        assert_all(list(client.reconstruct_many(images(), sigma=0.2, timeout=60)), expected)
    assert not faults
    assert proxy.connections == len(sizes) + 1
    assert pulled == list(range(len(IMAGES)))


def test_a_single_call_whose_connection_is_reset(connect_any, loop, server, expected):
    faults = deque([(200, Fault.RESET), (500, Fault.RESET)])
    with (
        faulty_proxy(loop, port_of(server), faults=faults) as proxy,
        connect_any(f"grpc://127.0.0.1:{proxy.port}") as client,
    ):
        assert_all([client.reconstruct(IMAGES[-1], sigma=0.2, timeout=60)], expected[-1:])
    assert not faults


def test_a_slow_network(connect_any, loop, server, expected):
    with (
        faulty_proxy(loop, port_of(server), delay=0.02) as proxy,
        connect_any(f"grpc://127.0.0.1:{proxy.port}") as client,
    ):
        assert_all(list(client.reconstruct_many(IMAGES, sigma=0.2)), expected)


def test_a_server_that_is_stopped_and_comes_back(connect_any, tiny_index, expected):
    def serve(port: int) -> Server:
        return Server(ServerConfig(indexes=(tiny_index,), listen=f"127.0.0.1:{port}", threads=1))

    server = serve(0)
    port = port_of(server)

    def images():
        nonlocal server
        for number, y in enumerate(IMAGES):
            if number == 6:
                server.stop(0.2)
                server = serve(port)
            yield y

    with connect_any(f"grpc://127.0.0.1:{port}") as client:
        assert_all(list(client.reconstruct_many(images(), sigma=0.2)), expected)
    server.stop(0)


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back(tiny_index, expected):
    with ExitStack() as stack:

        def serve(port: int):
            """A server in a process of its own, and the port on which it listens."""
            command = (*LEMMSE, "serve", tiny_index, "--listen", f"127.0.0.1:{port}")
            process = stack.enter_context(start_process(command, stdout=-1))
            stack.callback(process.kill)
            return process, int(process.stdout.readline().rpartition(":")[2])

        process, port = serve(0)

        def images():
            for number, y in enumerate(IMAGES):
                if number == 6:
                    process.kill()
                    process.wait()
                    serve(port)
                yield y

        with connect(f"grpc://127.0.0.1:{port}") as client:
            assert_all(list(client.reconstruct_many(images(), sigma=0.2)), expected)


@pytest.mark.slow
def test_ctrl_c_ends_the_command_at_once(tmp_path):
    np.save(tmp_path / "y.npy", IMAGES[0])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = f"127.0.0.1:{listening.getsockname()[1]}"
        arguments = (tmp_path / "y.npy", "--out", tmp_path / "x.npy", "--sigma", 0.1, "--server", server)
        with start_process((*LEMMSE, "reconstruct", *arguments), stderr=-1) as process:
            with listening.accept()[0]:
                start = time.monotonic()
                os.kill(process.pid, signal.SIGINT)
                process.wait()
            assert time.monotonic() - start < 2
    assert process.returncode == 130
