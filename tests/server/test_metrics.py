"""The metrics of a real server, as Prometheus reads them."""

import socket
import struct
from contextlib import ExitStack
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lemmse.client import connect
from lemmse.contract.errors import Unavailable
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from tests.support.requests import request


@pytest.fixture(scope="module")
def measured(larger_index):
    config = ServerConfig(
        indexes=(larger_index,), listen="127.0.0.1:0", threads=1, metrics_listen="127.0.0.1:0"
    )
    server = Server(config)
    yield server
    server.stop(0)


def samples(server):
    """All series by name and labels."""
    with urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.items())): sample.value for sample in found}


def change(before, after, name, **labels):
    key = (name, *sorted(labels.items()))
    return after[key] - before.get(key, 0.0)


def test_calls_by_method_and_status(measured):
    before = samples(measured)
    with grpc.insecure_channel(measured.address) as channel:
        stub = ReconstructionServiceStub(channel)
        for index in ("larger", "larger", "nope"):
            stub.Reconstruct.future(request(index=index)).exception()
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/lemmse.v1.ReconstructionService/Nothing")(b"")
    after = samples(measured)
    call = {
        "grpc_type": "unary",
        "grpc_service": "lemmse.v1.ReconstructionService",
        "grpc_method": "Reconstruct",
    }
    assert change(before, after, "grpc_server_started_total", **call) == 3
    assert change(before, after, "grpc_server_handled_total", grpc_code="OK", **call) == 2
    assert change(before, after, "grpc_server_handled_total", grpc_code="NOT_FOUND", **call) == 1
    assert change(before, after, "grpc_server_handling_seconds_count", **call) == 3
    assert not [key for key in after if ("grpc_method", "Nothing") in key]


def test_what_images_cost(measured):
    before = samples(measured)
    y = np.random.default_rng(0).random((12, 8), np.float32)
    with connect(f"grpc://{measured.address}") as client:
        exact = client.reconstruct(y, sigma=0.2, mode="exact")
        client.reconstruct(y, sigma=0.2, mode="hybrid", accuracy_db=42)
        list(client.reconstruct_many([y], sigma=0.2, mode="exact"))
    after = samples(measured)
    assert change(before, after, "lemmse_pixels_total", index="larger", mode="exact") == 2 * 96
    assert change(before, after, "lemmse_pixels_total", index="larger", mode="hybrid") == 96
    keys = change(before, after, "lemmse_keys_evaluated_total", index="larger", mode="exact")
    assert keys == pytest.approx(2 * 96 * exact.diagnostics.keys_touched)
    asked = "lemmse_asked_accuracy_db"
    assert change(before, after, f"{asked}_sum", index="larger") == 42
    for name in ("queue", "decode", "compute", "encode"):
        assert change(before, after, "lemmse_phase_seconds_count", phase=name) == 3
    computed = change(before, after, "lemmse_phase_seconds_sum", phase="compute")
    assert computed >= exact.diagnostics.seconds > 0
    assert after[("lemmse_queue_length",)] == 0
    assert after[("lemmse_queue_work",)] == 0


def test_an_index_has_the_size_of_its_files(measured, larger_index):
    (version,) = (path.parent for path in larger_index.rglob("manifest.json"))
    files = [path for path in version.rglob("*") if path.is_file() and path.name != "manifest.json"]
    size = samples(measured)[("lemmse_index_bytes", ("index", "larger"))]
    assert size == pytest.approx(sum(path.stat().st_size for path in files), rel=0.05)


def test_a_taken_port_is_refused(measured, tiny_index):
    with pytest.raises(Unavailable, match=f"metrics-listen: cannot listen on {measured.metrics_address}: "):
        Server(
            ServerConfig(
                indexes=(tiny_index,),
                listen="127.0.0.1:0",
                threads=1,
                metrics_listen=measured.metrics_address,
            )
        )


def test_idle_and_rude_connections_leave_the_metrics_readable(measured, capfd):
    host, _, port = measured.metrics_address.rpartition(":")
    with ExitStack() as opened:
        connections = [
            opened.enter_context(socket.create_connection((host, int(port)), timeout=30)) for _ in range(60)
        ]
        for idle in connections[:40]:
            assert idle.recv(1) == b""  # ended by the server, for the later ones
        for rude in connections[50:]:
            rude.sendall(b"GET /metrics")
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rude.close()  # by a reset
        assert samples(measured)
    assert capfd.readouterr().err == ""
