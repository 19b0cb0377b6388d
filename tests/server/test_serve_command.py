"""`lemmse serve` as a process."""

import ctypes
import os
import re
import shutil
import signal
from contextlib import contextmanager
from subprocess import PIPE

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from lemmse.client.serving import LEMMSE
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from tests.support.commands import invoke
from tests.support.processes import run_process, start_process
from tests.support.requests import OpenStream, request

pytestmark = pytest.mark.slow


@contextmanager
def serving(*arguments):
    """A server process and its address."""
    command = [*LEMMSE, "serve", *map(str, arguments), "--listen", "127.0.0.1:0"]
    with start_process(command, stdout=PIPE, stderr=PIPE) as process:
        ready = process.stdout.readline()
        found = re.fullmatch(r"listening on (127\.0\.0\.1:\d+)\n", ready)
        assert found, ready
        yield process, found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(tiny_index, number):
    with serving(tiny_index, "--threads", 1) as (process, address):
        with grpc.insecure_channel(address) as channel:
            watch = HealthStub(channel).Watch(HealthCheckRequest())
            assert next(watch).status == HealthCheckResponse.SERVING
            stream = OpenStream(ReconstructionServiceStub(channel))
            process.send_signal(number)
            assert next(watch).status == HealthCheckResponse.NOT_SERVING
            watch.cancel()
            assert stream.ask().HasField("response")
            assert stream.close() == []
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert stdout == ""
    assert "ReconstructStream.item item=2 index=tiny estimator=le-mmse mode=auto shape=(2, 2)" in stderr
    assert "Traceback" not in stderr


def require_one_line(stdout, stderr, words):
    assert stdout == ""
    (line,) = stderr.splitlines()
    assert line.startswith("lemmse: error: ")
    assert words in line


@pytest.mark.slow
def test_what_is_wrong_is_one_line(server, tiny_index, tmp_path):
    """Of a process, to whose stderr gRPC may write."""
    (tmp_path / "empty").mkdir()
    for arguments, status, words in [
        ([tiny_index, "--listen", server.address], 1, f"cannot listen on {server.address}"),
        ([tmp_path / "empty"], 2, "empty"),
    ]:
        done = run_process([*LEMMSE, "serve", *map(str, arguments)])
        assert done.returncode == status
        require_one_line(done.stdout, done.stderr, words)


def test_a_wrong_number_is_one_line(tiny_index):
    status, stdout, stderr = invoke("serve", tiny_index, "--threads", 0)
    assert status == 2
    require_one_line(stdout, stderr, "threads: expected a number from 1 to 4096, got 0")


def test_sighup_loads_the_indexes_again(tiny_index, tmp_path):
    folder = shutil.copytree(tiny_index, tmp_path / "tiny")
    with serving(folder, "--threads", 1) as (process, address):
        with grpc.insecure_channel(address) as channel:
            shutil.copytree(folder / "1", folder / "2")
            (folder / "CURRENT").write_text("2\n")
            process.send_signal(signal.SIGHUP)
            for line in process.stderr:
                if "index tiny version 2 loaded" in line:
                    break
            answered = ReconstructionServiceStub(channel).Reconstruct(request())
            assert answered.diagnostics.version == "2"
            (folder / "2" / "sources.json").unlink()
            process.send_signal(signal.SIGHUP)
            for line in process.stderr:
                if "index tiny stays as it is: index 'tiny' version 2: sources.json is missing" in line:
                    break
            answered = ReconstructionServiceStub(channel).Reconstruct(request())
            assert answered.diagnostics.version == "2"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are listed in /proc")
def test_a_signal_that_another_thread_receives_is_not_lost(tiny_index):
    # The system hands a signal to any thread while the main thread has yet to handle an earlier one.
    with serving(tiny_index, "--threads", 1) as (process, _):
        another = max(int(thread) for thread in os.listdir(f"/proc/{process.pid}/task"))
        assert another != process.pid
        for number, expected in [(signal.SIGHUP, "loading all indexes again"), (signal.SIGTERM, "stopping")]:
            assert ctypes.CDLL(None).tgkill(process.pid, another, number) == 0
            assert any(expected in line for line in process.stderr)
        process.communicate(timeout=30)
    assert process.returncode == 0
