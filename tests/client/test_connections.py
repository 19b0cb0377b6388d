"""Connections that fail, servers that are busy or away, and several servers."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from lemmse.client import channels
from lemmse.client.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from tests.support.standin import in_turn, standing_in

BUSY = ResourceExhausted("busy", retry_after=0.2)


def test_a_busy_server_is_asked_again_when_it_says(connect_any):
    with standing_in(in_turn(BUSY, BUSY)) as server, connect_any(f"grpc://127.0.0.1:{server.port}") as client:
        start = time.monotonic()
        assert client.list_indexes(timeout=20) == []
        assert time.monotonic() - start >= 2 * BUSY.retry_after
        assert len(server.calls) == 3
        assert len({metadata["x-request-id"] for metadata in server.calls}) == 1


@pytest.mark.parametrize(
    ("error", "timeout"),
    [
        (ResourceExhausted("an answer that is too large"), 20),
        (Unavailable("no workers"), 20),
        (DataLoss("damaged"), 20),
        (ResourceExhausted("busy", retry_after=60), 20),
    ],
)
def test_what_waiting_does_not_help_is_raised_at_once(connect_any, error, timeout):
    with (
        standing_in(lambda metadata: error) as server,
        connect_any(f"grpc://127.0.0.1:{server.port}") as client,
    ):
        with pytest.raises(type(error)) as caught:
            client.list_indexes(timeout=timeout)
        assert caught.value.message == error.message
        assert getattr(caught.value, "retry_after", None) == getattr(error, "retry_after", None)
        assert len(server.calls) == 1


def test_an_image_of_a_batch_is_sent_again_when_the_server_says(connect_any):
    images = [np.full((3, 3), number, np.float32) for number in range(6)]
    with (
        standing_in(in_turn(None, BUSY, None, BUSY)) as server,
        connect_any(f"grpc://127.0.0.1:{server.port}") as client,
    ):
        start = time.monotonic()
        outcomes = list(client.reconstruct_many(images, sigma=1, timeout=30))
        assert time.monotonic() - start >= BUSY.retry_after
    np.testing.assert_array_equal([outcome.image for outcome in outcomes], images)
    assert len(server.calls) > len(images)
    assert len({metadata["x-request-id"] for metadata in server.calls}) == 1


def test_an_image_of_a_batch_that_failed_is_not_sent_again(connect_any):
    with (
        standing_in(in_turn(DataLoss("damaged"))) as server,
        connect_any(f"grpc://127.0.0.1:{server.port}") as client,
    ):
        failed, done = client.reconstruct_many([np.zeros((3, 3)), np.ones((3, 3))], sigma=1, timeout=30)
    assert str(failed) == f"damaged (request {server.calls[0]['x-request-id']})"
    np.testing.assert_array_equal(done.image, np.ones((3, 3)))
    assert len(server.calls) == 2


def test_a_batch_that_the_server_cannot_take_in_time(connect_any):
    with (
        standing_in(lambda metadata: ResourceExhausted("busy", retry_after=60)) as server,
        connect_any(f"grpc://127.0.0.1:{server.port}") as client,
        pytest.raises(ResourceExhausted, match="busy"),
    ):
        list(client.reconstruct_many([np.zeros((3, 3))], sigma=1, timeout=20))


def test_an_error_names_the_request(connect_any):
    error = InvalidArgument("nonsense")
    with (
        standing_in(lambda metadata: error) as server,
        connect_any(f"grpc://127.0.0.1:{server.port}") as client,
    ):
        with pytest.raises(InvalidArgument) as caught:
            client.list_indexes()
        assert caught.value.request_id == server.calls[0]["x-request-id"]
        assert str(caught.value) == f"nonsense (request {caught.value.request_id})"
        error.request_id = "another"
        with pytest.raises(InvalidArgument, match=r"^nonsense \(request the server's name for it\)$"):
            client.list_indexes()


def test_a_server_that_comes_back_is_found_at_once(connect_any):
    with standing_in() as server, connect_any(f"grpc://127.0.0.1:{server.port}") as client:
        client.list_indexes()
        port = server.port
    with connect_any(f"grpc://127.0.0.1:{port}") as client:
        start = time.monotonic()
        with pytest.raises(Unavailable, match=rf"^127\.0\.0\.1:{port}: .*is a server running there\?$"):
            client.list_indexes(timeout=3)
        assert time.monotonic() - start <= 3
        with standing_in(port=port), connect_any(f"grpc://127.0.0.1:{port}") as other:
            for one in (client, other):
                start = time.monotonic()
                assert one.list_indexes(timeout=20) == []
                assert time.monotonic() - start < 2


def test_a_call_waits_for_a_server_that_restarts(connect_any):
    arrived, stopped = threading.Event(), threading.Event()

    def hold(metadata):
        arrived.set()
        stopped.wait(20)

    with (
        standing_in(hold) as first,
        connect_any(f"grpc://127.0.0.1:{first.port}") as client,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(client.list_indexes, timeout=30)
        assert arrived.wait(20)
        first.stop()
        stopped.set()
        with standing_in(port=first.port) as second:
            assert asked.result() == []
        assert [call["x-request-id"] for call in first.calls + second.calls] == (
            2 * [first.calls[0]["x-request-id"]]
        )


@pytest.mark.usefixtures("impatient_clients")
def test_nobody_answers_at_an_address_that_accepts(connect_any, monkeypatch):
    """As a server that is frozen, or of another protocol: the attempt to connect has a time limit."""
    monkeypatch.setitem(channels._OPTIONS, "grpc.min_reconnect_backoff_ms", 500)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        start = time.monotonic()
        with connect_any(f"grpc://127.0.0.1:{port}") as client, pytest.raises(Unavailable):
            client.list_indexes()
        assert time.monotonic() - start < 10


def test_a_closed_client_does_not_try_again(connect_any):
    arrived, stopped = threading.Event(), threading.Event()

    def hold(metadata):
        arrived.set()
        stopped.wait(20)

    with (
        standing_in(hold) as server,
        connect_any(f"grpc://127.0.0.1:{server.port}") as client,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(client.list_indexes)
        assert arrived.wait(20)
        client.close()
        with pytest.raises(FailedPrecondition, match="closed"):
            asked.result(20)
        stopped.set()
        assert len(server.calls) == 1


def test_several_servers_are_asked_in_turn(connect_any):
    with standing_in() as one, standing_in() as other:
        with connect_any(f"grpc://127.0.0.1:{one.port},127.0.0.1:{other.port}") as client:
            for _ in range(10):
                client.list_indexes()
        assert (len(one.calls), len(other.calls)) == (5, 5)


def test_several_servers_share_a_batch(connect_any):
    """All work at the same time, and when one is lost, another does its images."""
    images = [np.full((3, 3), number, np.float32) for number in range(12)]
    both = threading.Barrier(2)

    def meet(metadata):
        both.wait(20)

    with standing_in(meet) as one, standing_in(meet) as other:
        with connect_any(f"grpc://127.0.0.1:{one.port},127.0.0.1:{other.port}") as client:
            outcomes = list(client.reconstruct_many(images, sigma=1, timeout=60))
        assert (len(one.calls), len(other.calls)) == (6, 6)
    np.testing.assert_array_equal([outcome.image for outcome in outcomes], images)

    seen = []

    def leave(metadata):
        seen.append(metadata)
        if len(seen) == 3:
            threading.Thread(target=one.stop).start()

    with standing_in(leave) as one, standing_in() as other:
        with connect_any(f"grpc://127.0.0.1:{one.port},127.0.0.1:{other.port}") as client:
            outcomes = list(client.reconstruct_many(images, sigma=1, timeout=60))
        assert len(other.calls) >= 6
    np.testing.assert_array_equal([outcome.image for outcome in outcomes], images)


def test_a_server_that_is_busy_passes_a_call_on_to_another(connect_any):
    with standing_in(lambda metadata: BUSY) as busy, standing_in() as free:
        with connect_any(f"grpc://127.0.0.1:{busy.port},127.0.0.1:{free.port}") as client:
            start = time.monotonic()
            for _ in range(10):
                client.list_indexes()
            assert time.monotonic() - start < 10 * BUSY.retry_after
        assert len(free.calls) == 10


def test_servers_that_are_away_or_do_not_serve_are_left_out(connect_any):
    with standing_in() as ill, standing_in() as gone, standing_in() as well, ExitStack() as stack:
        ill.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        addresses = ",".join(f"127.0.0.1:{server.port}" for server in (ill, gone, well))
        client = stack.enter_context(connect_any(f"grpc://{addresses}"))
        gone.stop()
        for _ in range(9):
            client.list_indexes(timeout=20)
        assert (len(ill.calls), len(well.calls)) == (0, 9)


def test_a_proxy_is_not_asked_for_this_machine(connect_any, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with standing_in() as server:
        for host in ("127.0.0.1", "localhost"):
            with connect_any(f"grpc://{host}:{server.port}") as client:
                assert client.list_indexes(timeout=20) == []
