"""Traces that a server process sends to a collector."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from subprocess import PIPE

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from lemmse.client.serving import LEMMSE
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from tests.support.processes import start_process
from tests.support.requests import request

pytestmark = pytest.mark.slow

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it receives."""

    def __init__(self):
        self.services, self.spans = [], []

    def Export(self, request, context):  # noqa: N802
        for resource in request.resource_spans:
            self.services += [
                a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
            ]
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def traced(index, endpoint, call):
    """Run a server that sends traces, make a call, and stop the server."""
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    command = [*LEMMSE, "serve", index, "--listen", "127.0.0.1:0", "--threads", "1", "--tracing"]
    with start_process(command, stdout=PIPE, stderr=PIPE, env=environment) as process:
        address = process.stdout.readline().removeprefix("listening on ").strip()
        with grpc.insecure_channel(address) as channel:
            call(ReconstructionServiceStub(channel))
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr


def test_a_call_is_a_child_of_the_clients_span(tiny_index):
    def call(stub):
        parent = [("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "seen")]
        stub.Reconstruct(request(), metadata=parent)
        with pytest.raises(grpc.RpcError):
            stub.Reconstruct(request(index="nope"))

    with collecting() as (collector, endpoint):
        traced(tiny_index, endpoint, call)
    good, bad = collector.spans
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    assert good.name == "lemmse.v1.ReconstructionService/Reconstruct"
    said = {attribute.key: attribute.value for attribute in good.attributes}
    assert said["lemmse.request_id"].string_value == "seen"
    assert said["rpc.grpc.status_code"].int_value == 0
    said = {attribute.key: attribute.value for attribute in bad.attributes}
    assert said["rpc.grpc.status_code"].int_value == grpc.StatusCode.NOT_FOUND.value[0]
    assert bad.parent_span_id == b""
    assert collector.services == ["lemmse"]


def test_a_collector_that_is_gone_stops_nothing(tiny_index):
    with collecting() as (_, endpoint):
        pass
    traced(tiny_index, endpoint, lambda stub: stub.Reconstruct(request()))
