"""The log of a server process: its forms, its request ids, and a reader that stalls."""

import json
import os
import signal
from contextlib import contextmanager
from subprocess import PIPE
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from lemmse.client.serving import LEMMSE
from lemmse.v1 import index_pb2, index_pb2_grpc
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from tests.support.processes import start_process
from tests.support.requests import request

pytestmark = pytest.mark.slow


@contextmanager
def serving(index, *arguments, stderr):
    """A server process and a channel to it."""
    command = [*LEMMSE, "serve", index, "--listen", "127.0.0.1:0", "--threads", "1", *arguments]
    with start_process(command, stdout=PIPE, stderr=stderr) as process:
        address = process.stdout.readline().removeprefix("listening on ").strip()
        with grpc.insecure_channel(address) as channel:
            yield process, channel


def test_json_lines_with_the_request_id_of_the_client(tiny_index):
    with serving(tiny_index, "--log-format", "json", stderr=PIPE) as (process, channel):
        reconstruct = ReconstructionServiceStub(channel).Reconstruct
        reconstruct(request(), metadata=[("x-request-id", "mine.7")])
        with pytest.raises(grpc.RpcError) as caught:
            reconstruct(request(index="n\nope"), metadata=[("x-request-id", "two words")])
        process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in process.communicate(timeout=30)[1].splitlines()]
    (made,) = (value for key, value in caught.value.trailing_metadata() if key == "x-request-id")
    assert len(made) == 16
    good, bad = (line for line in lines if line.get("method") == "Reconstruct")
    assert (good["request_id"], good["outcome"], good["index"]) == ("mine.7", "OK", "tiny")
    assert good["seconds"] >= 0
    assert good["level"] == "INFO"
    assert bad["request_id"] == made
    assert bad["outcome"].startswith("NOT_FOUND index: expected one of tiny, got 'n")
    assert lines[-1]["message"] == "stopped"


def test_a_log_that_nobody_reads_stops_nothing(tiny_index):
    reader, writer = os.pipe()
    try:
        with serving(tiny_index, "--metrics-listen", "127.0.0.1:0", stderr=writer) as (process, channel):
            address = os.read(reader, 4096).decode().partition("metrics on http://")[2].partition("/")[0]
            listing = index_pb2_grpc.IndexServiceStub(channel).ListIndexes
            # More lines than the pipe and the queue take.
            calls = [listing.future(index_pb2.ListIndexesRequest(), timeout=60) for _ in range(5_000)]
            assert sum(len(call.result().indexes) for call in calls) == 5_000
            check = HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
            assert check.status == HealthCheckResponse.SERVING
            with urlopen(f"http://{address}/metrics", timeout=10) as answer:
                metrics = dict(line.split(b" ") for line in answer if line.startswith(b"lemmse_log"))
            assert float(metrics[b"lemmse_log_lines_dropped_total"]) > 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
    finally:
        os.close(reader)
        os.close(writer)
