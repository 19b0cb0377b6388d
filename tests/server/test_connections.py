"""How connections are limited."""

import os
import resource
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from subprocess import PIPE

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from lemmse.client import channels
from lemmse.server import connections
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.v1 import index_pb2, index_pb2_grpc
from tests.support.processes import run_process

HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client says first: the preface and empty settings."""


def connected(address):
    host, port = address.split(":")
    peer = socket.create_connection((host, int(port)), timeout=20)
    peer.sendall(HTTP2)
    return peer


def test_a_burst_of_calls_is_answered_in_full(server):
    with grpc.insecure_channel(server.address) as channel:
        listing = index_pb2_grpc.IndexServiceStub(channel).ListIndexes
        calls = [listing.future(index_pb2.ListIndexesRequest(), timeout=60) for _ in range(2_000)]
        assert {len(call.result().indexes) for call in calls} == {1}


def test_a_connection_without_calls_is_closed(tiny_index):
    config = ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1, connection_idle=1)
    server = Server(config)
    with connected(server.address) as peer:
        while peer.recv(4096):  # ends with the connection, or raises TimeoutError
            pass
    server.stop(0)


def test_no_more_connections_than_files(tiny_index):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 200 + len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        server = Server(ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    expected = max(limit - 100, limit // 2)
    peers = [connected(server.address) for _ in range(expected + 20)]
    with ThreadPoolExecutor(len(peers)) as readers:
        greeted = sum(readers.map(_is_greeted, peers))
    assert greeted == expected
    for peer in peers:
        peer.close()
    server.stop(0)


def _is_greeted(peer):
    """Whether the server takes a connection, rather than closing it."""
    try:
        return bool(peer.recv(1))
    except OSError:
        return False


@pytest.mark.slow
def test_the_limit_of_open_files_is_raised_or_said():
    code = (
        "import logging, resource\n"
        "from lemmse.server.connections import raise_open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, ({}, {}))\n"
        "logging.basicConfig()\n"
        "raise_open_files()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = run_process([sys.executable, "-c", code.format(128, 2048)], stderr=PIPE)
    assert (done.stdout, done.stderr) == ("2048 2048\n", "")
    done = run_process([sys.executable, "-c", code.format(128, 256)], stderr=PIPE)
    assert done.stdout == "256 256\n"
    assert "may open 256 files, and so takes 156 connections" in done.stderr


@pytest.mark.slow
def test_a_client_may_ping_every_few_seconds(tiny_index, monkeypatch):
    """Times are an eighth of the real ones."""
    assert channels._OPTIONS["grpc.keepalive_time_ms"] > connections._PINGS_APART_MS
    monkeypatch.setattr(connections, "_PINGS_APART_MS", connections._PINGS_APART_MS // 8)
    server = Server(ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1))
    options = [
        ("grpc.keepalive_time_ms", 600),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    with grpc.insecure_channel(server.address, options) as channel:
        watch = HealthStub(channel).Watch(HealthCheckRequest(), timeout=4)
        assert next(watch).status == HealthCheckResponse.SERVING
        # With gRPC's defaults the server ends it at the fifth ping: UNAVAILABLE, too many pings.
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    server.stop(0)
