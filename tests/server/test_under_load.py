"""Calls that are silent, half sent, too large, too many or cancelled, and what they leave to others."""

import gc
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_status import rpc_status

from lemmse.contract.limits import MESSAGE_BYTES
from lemmse.index import build
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.index_pb2 import ListIndexesRequest
from lemmse.v1.index_pb2_grpc import IndexServiceStub
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from lemmse.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor, TensorChunk
from tests.support.requests import OpenStream, request

RECONSTRUCTION = "/lemmse.v1.ReconstructionService/"


@contextmanager
def started(*indexes, **settings):
    """A server."""
    server = Server(ServerConfig(indexes=indexes, listen="127.0.0.1:0", threads=1, **settings))
    try:
        yield server
    finally:
        server.stop(0)


@contextmanager
def serving(*indexes, **settings):
    """A channel to a server."""
    with started(*indexes, **settings) as server, grpc.insecure_channel(server.address) as channel:
        yield channel


def image(height, width, data=None):
    content = np.zeros((height, width), "<f4").tobytes() if data is None else data
    return Tensor(dtype=DATA_TYPE_FLOAT32, shape=(height, width), data=content)


class Silent:
    """A stream that sends some messages and then nothing."""

    def __init__(self, method, *messages):
        self._parts = SimpleQueue()
        for message in messages:
            self._parts.put(message)
        self.call = method(iter(self._parts.get, None))

    def end(self):
        """The status with which the server ends it."""
        with pytest.raises(grpc.RpcError) as caught:
            for _ in self.call:
                pass
        self._parts.put(None)
        return outcome(caught.value)

    def leave(self):
        self.call.cancel()
        self._parts.put(None)


def outcome(error):
    """Code, message and details of an error, by the kind of detail."""
    status, details = rpc_status.from_call(error), {}
    for detail in status.details:
        for kind in (BadRequest, RetryInfo):
            message = kind()
            if detail.Unpack(message):
                details[kind] = message
    return error.code(), status.message, details


def refusal(call, message):
    with pytest.raises(grpc.RpcError) as caught:
        call(message)
    return outcome(caught.value)


def test_silent_streams_keep_nothing_from_others(tiny_index):
    begun = pb.ReconstructStreamRequest(item=1, request=request(y=image(1024, 1024, b"")))
    with serving(tiny_index) as channel:
        stub = ReconstructionServiceStub(channel)
        silent = [Silent(stub.ReconstructStream) for _ in range(60)]
        silent += [Silent(stub.ReconstructStream, begun) for _ in range(60)]
        silent += [Silent(ServerReflectionStub(channel).ServerReflectionInfo) for _ in range(60)]
        threads = threading.active_count()
        for _ in range(3):
            assert HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
            assert IndexServiceStub(channel).ListIndexes(ListIndexesRequest(), timeout=10).indexes
            assert stub.Reconstruct(request(), timeout=10).HasField("image")
        assert threading.active_count() - threads < 10
        for stream in silent:
            stream.leave()


def test_a_silent_stream_ends_and_says_that_another_may_be_opened(tiny_index):
    with serving(tiny_index, idle_timeout=0.2) as channel:
        stub = ReconstructionServiceStub(channel)
        answered = pb.ReconstructStreamRequest(item=1, request=request())
        for messages in ((), (answered,)):
            code, message, details = Silent(stub.ReconstructStream, *messages).end()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "silent" in message
            assert details[RetryInfo].retry_delay.ToTimedelta().total_seconds() == 0


def test_answers_that_are_not_taken_give_their_memory_back(tiny_index):
    """The windows of both streams are full, and their requests have all of the memory."""
    large = request(y=image(600, 600))
    settings = {"idle_timeout": 1.0, "memory": 4 * 4 * 600**2, "max_bytes": 2 * 4 * 600**2}
    fixed_window = (("grpc.http2.bdp_probe", 0),)
    with (
        started(tiny_index, **settings) as server,
        grpc.insecure_channel(server.address, options=fixed_window) as channel,
    ):
        stub = ReconstructionServiceStub(channel)
        items = [pb.ReconstructStreamRequest(item=number, request=large) for number in (1, 2)]
        streams = [Silent(stub.ReconstructStream, *items) for _ in range(2)]
        deadline = time.monotonic() + 30
        for held in (True, False):  # until both have arrived, and until their memory is free
            while refused(stub, large) != held:
                assert time.monotonic() < deadline
        reasons = []
        for stream in streams:
            assert next(stream.call).HasField("response")
            code, details, extra = stream.end()
            assert code is grpc.StatusCode.UNAVAILABLE
            reasons.append("took no answer for 1 seconds" in details)
            assert extra[RetryInfo].retry_delay.ToTimedelta().total_seconds() == 0
        assert any(reasons)  # the other may have had its first answer taken by gRPC, and have been silent


def refused(stub, message):
    """Whether there is no room for a request."""
    error = stub.Reconstruct.future(message).exception()
    assert error is None or error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return error is not None


def test_what_is_half_sent_ends(tiny_index):
    begun = pb.ReconstructStreamRequest(item=1, request=request(y=image(64, 64, b"1234")))
    with serving(tiny_index, idle_timeout=0.2) as channel:
        stream = Silent(ReconstructionServiceStub(channel).ReconstructStream, begun)
        unary = Silent(channel.stream_stream(f"{RECONSTRUCTION}Reconstruct"))
        for call in (stream, unary):
            code, message, _ = call.end()
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert message == "expected a message within 0.2 seconds, got none"


def test_a_new_call_takes_the_place_of_the_longest_silent_one(tiny_index, monkeypatch):
    monkeypatch.setattr("lemmse.server.open_calls._SILENT", 0.0)
    with serving(tiny_index, calls=2) as channel:
        stub = ReconstructionServiceStub(channel)
        streams = [OpenStream(stub) for _ in range(2)]
        assert stub.Reconstruct(request()).HasField("image")
        with pytest.raises(grpc.RpcError) as ended:
            streams[0].close()
        assert outcome(ended.value)[0] is grpc.StatusCode.UNAVAILABLE
        assert streams[1].ask().HasField("response")
        assert streams[1].close() == []


def test_calls_that_wait_for_messages_are_no_more_than_the_memory_has_room_for(tiny_index, monkeypatch):
    monkeypatch.setattr("lemmse.server.receiving._LEAST", 1)
    room_for_four = {"memory": 4 * MESSAGE_BYTES, "max_bytes": 1 << 20}  # one of them is of other services
    with serving(tiny_index, **room_for_four) as channel:
        stub = ReconstructionServiceStub(channel)
        streams = [OpenStream(stub) for _ in range(3)]
        for stream in streams:
            assert stream.ask().HasField("response")
        # A stream waits for its next message soon after its answer has arrived.
        call, deadline = stub.Reconstruct.future(request()), time.monotonic() + 20
        while call.code() is grpc.StatusCode.OK and time.monotonic() < deadline:
            call = stub.Reconstruct.future(request())
        code, message, details = outcome(call)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "already waits for 3 messages" in message
        assert details[RetryInfo].retry_delay.ToTimedelta().total_seconds() == 1
        assert HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
        monkeypatch.setattr("lemmse.server.open_calls._SILENT", 0.0)
        assert stub.Reconstruct(request()).HasField("image")
        ended = []
        for stream in streams:
            try:
                assert stream.close() == []
            except grpc.RpcError as error:
                ended.append(outcome(error)[0])
        assert ended == [grpc.StatusCode.UNAVAILABLE]


def test_too_many_calls(larger_index):
    endless = request(y=image(900, 900))
    with serving(larger_index, calls=2) as channel:
        stub = ReconstructionServiceStub(channel)
        running = [stub.Reconstruct.future(endless) for _ in range(2)]
        deadline = time.monotonic() + 20
        code = None
        while code is None and time.monotonic() < deadline:
            # One that came beside a short one was refused.
            running = [stub.Reconstruct.future(endless) if one.done() else one for one in running]
            call = stub.Reconstruct.future(request())
            code = None if call.code() is grpc.StatusCode.OK else call.code()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert outcome(call)[2][RetryInfo].retry_delay.ToTimedelta().total_seconds() > 0
        assert HealthStub(channel).Check(HealthCheckRequest(), timeout=10)
        for call in running:
            call.cancel()


@pytest.mark.parametrize(
    ("settings", "changes", "fields"),
    [
        ({"max_pixels": 99}, {"y": image(10, 10)}, ["y"]),
        ({"max_bytes": 799}, {"y": image(10, 10)}, ["y"]),
        ({"max_work": 71 * 9 * 4}, {}, ["y"]),
        ({"max_k": 5}, {"mode": pb.MODE_TOPK, "topk": pb.TopK(k=6)}, ["k"]),
        ({"max_nprobe": 5}, {"mode": pb.MODE_TOPK, "topk": pb.TopK(nprobe=6)}, ["nprobe"]),
        ({"max_exclude": 1}, {"exclude": ["0", "1"]}, ["exclude"]),
        ({"max_work": 72 * 9 * 100}, {"exclude": ["0"]}, ["y"]),
    ],
)
def test_beyond_a_limit(tiny_index, settings, changes, fields):
    with serving(tiny_index, **settings) as channel:
        stub = ReconstructionServiceStub(channel)
        code, _, details = refusal(stub.Reconstruct, request(**{"mode": pb.MODE_EXACT} | changes))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in details[BadRequest].field_violations] == fields
        item = pb.ReconstructStreamRequest(item=1, request=request(**{"mode": pb.MODE_EXACT} | changes))
        (answer,) = stub.ReconstructStream(iter([item]))
        assert Status.FromString(answer.error).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_at_the_limits(tiny_index):
    settings = {"max_pixels": 100, "max_bytes": 800, "max_work": 72 * 9 * 104, "max_k": 6, "max_nprobe": 6}
    settings["max_exclude"] = 1
    with serving(tiny_index, **settings) as channel:
        stub = ReconstructionServiceStub(channel)
        for asked in (
            request(y=image(10, 10), mode=pb.MODE_EXACT),
            request(mode=pb.MODE_TOPK, topk=pb.TopK(k=6, nprobe=6)),
            request(exclude=["0"]),
        ):
            assert stub.Reconstruct(asked).HasField("image")
        for pixels, allowed in ((26, True), (27, False)):  # four times the work of a reconstruction
            y = image(1, pixels)
            call = stub.Differentiate.future(pb.DifferentiateRequest(y=y, vector=y, sigma=0.1))
            assert (call.code() is grpc.StatusCode.OK) == allowed


def test_many_that_exclude_other_images_wait_for_each_other(tmp_path):
    training = np.random.default_rng(0).random((5, 12, 12), np.float32)
    np.save(tmp_path / "x.npy", training)
    index = build([tmp_path / "x.npy"], tmp_path / "index", patch_size=3)
    with serving(index) as channel, ThreadPoolExecutor(10) as pool:
        stub = ReconstructionServiceStub(channel)
        asked = [request(y=image(40, 40), exclude=[str(number % 5)]) for number in range(20)]
        answers = list(pool.map(lambda one: stub.Reconstruct(one, timeout=60), asked))
    for number in range(5):
        same = {answer.image.data for answer in answers[number::5]}
        assert len(same) == 1
        assert {answer.diagnostics.keys for answer in answers[number::5]} == {4 * 144}


def test_contributors_are_limited(tiny_index):
    with serving(tiny_index, max_contributors=5) as channel:
        explain = ReconstructionServiceStub(channel).Explain
        asked = pb.ExplainRequest(y=request().y, sigma=0.1, top=6)
        assert refusal(explain, asked)[0] is grpc.StatusCode.INVALID_ARGUMENT
        asked.top = 5
        assert len(explain(asked).contributors) == 5


def test_a_stream_of_too_many_items_goes_on_in_another(tiny_index):
    items = [pb.ReconstructStreamRequest(item=i, request=request()) for i in range(5)]
    with serving(tiny_index, max_items=3) as channel:
        stub, answered = ReconstructionServiceStub(channel), []
        with pytest.raises(grpc.RpcError) as ended:
            answered.extend(answer.item for answer in stub.ReconstructStream(iter(items)))
        code, _, details = outcome(ended.value)
        assert (code, RetryInfo in details) == (grpc.StatusCode.UNAVAILABLE, True)
        assert [answer.item for answer in stub.ReconstructStream(iter(items[3:]))] == [3, 4]


def test_work_that_takes_too_long(larger_index):
    with serving(larger_index, max_seconds=0.2) as channel:
        stub = ReconstructionServiceStub(channel)
        code, message, _ = refusal(stub.Reconstruct, request(y=image(900, 900), mode=pb.MODE_EXACT))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert message.startswith("the computation took longer than 0.2 seconds")
        assert stub.Reconstruct(request()).HasField("image")


def test_memory_that_others_have_is_waited_for_or_refused(larger_index):
    """Two images of 900 × 900 with their answers fit; a third unary call is refused, an item waits."""
    large = request(y=image(900, 900), mode=pb.MODE_EXACT)
    size = 2 * 900 * 900 * 4
    with serving(larger_index, memory=2 * size, max_bytes=size) as channel:
        stub = ReconstructionServiceStub(channel)
        running = [stub.Reconstruct.future(large) for _ in range(2)]
        waiting = stub.ReconstructStream(iter([pb.ReconstructStreamRequest(item=1, request=request())]))
        refused = SimpleQueue()
        third = stub.Reconstruct.future(large)
        for call in (*running, third):
            call.add_done_callback(refused.put)
        code, _, details = outcome(refused.get(timeout=20))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details[RetryInfo].retry_delay.ToTimedelta().total_seconds() > 0
        assert waiting.is_active()
        for call in running:
            call.cancel()
        assert next(waiting).HasField("response")


def test_a_short_request_beside_a_long_one(larger_index):
    short = request(y=image(8, 8), mode=pb.MODE_EXACT)
    with serving(larger_index) as channel:
        stub = ReconstructionServiceStub(channel)

        def seconds():
            start = time.perf_counter()
            stub.Reconstruct(short)
            return time.perf_counter() - start

        seconds()
        alone = sorted(seconds() for _ in range(7))[3]
        long = stub.Reconstruct.future(request(y=image(900, 900), mode=pb.MODE_EXACT))
        beside = sorted(seconds() for _ in range(7))[3]
        assert long.is_active()
        assert beside <= 3 * alone + 0.1
        long.cancel()


def test_cancelled_requests_leave_nothing(larger_index):
    """Neither a request nor its arrays wait for the garbage collector, which is off."""
    with serving(larger_index) as channel:
        stub = ReconstructionServiceStub(channel)
        large = request(y=image(500, 500), mode=pb.MODE_EXACT)
        begun = [
            pb.ReconstructStreamRequest(item=1, request=request(y=image(700, 700, b""))),
            pb.ReconstructStreamRequest(item=1, chunk=TensorChunk(field="y", data=bytes(1 << 20))),
        ]
        ahead = [pb.ReconstructStreamRequest(item=number, request=large) for number in (1, 2)]
        bad = [pb.ReconstructStreamRequest(item=k, request=request(sigma=-1)) for k in range(5)]
        stub.Reconstruct(request())
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                calls = [stub.Reconstruct.future(large) for _ in range(20)]
                streams = [Silent(stub.ReconstructStream, *begun) for _ in range(10)]
                streams += [Silent(stub.ReconstructStream, *ahead) for _ in range(10)]
                time.sleep(0.05)  # some have begun, some wait
                for call in calls:
                    call.cancel()
                for stream in streams:
                    stream.leave()
            refused = [stub.Reconstruct.future(request(sigma=-1)) for _ in range(20)]
            assert {call.code() for call in refused} == {grpc.StatusCode.INVALID_ARGUMENT}
            assert [answer.WhichOneof("part") for answer in stub.ReconstructStream(iter(bad))] == [
                "error"
            ] * 5
            deadline = time.monotonic() + 20
            while (left := alive()) and time.monotonic() < deadline:
                stub.Reconstruct(request())
            assert left == []
        finally:
            gc.enable()


def alive():
    kinds = ("Measurement", "Incoming", "_ServicerContext", "_MessageReceiver")
    return [kind for one in gc.get_objects() if (kind := type(one).__name__) in kinds]


@pytest.mark.slow
def test_thousands_of_calls_at_once_end_with_an_answer_or_a_reason(tiny_index):
    with serving(tiny_index, queue=500) as channel:
        stub = ReconstructionServiceStub(channel)
        calls = [stub.Reconstruct.future(request()) for _ in range(2000)]
        codes = Counter(call.code() for call in calls)
        assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert codes[grpc.StatusCode.OK] >= 250


def test_a_request_that_no_image_fits_reads_no_image(tmp_path, monkeypatch):
    for number, size in enumerate((6, 8)):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(0).random((1, size, size), np.float32))
    index = build([tmp_path / "0.npy", tmp_path / "1.npy"], tmp_path / "index", patch_size=3)
    with serving(index) as channel:
        monkeypatch.setattr("lemmse.index.Index.images", None)
        stub = ReconstructionServiceStub(channel)
        code, message, _ = refusal(stub.Reconstruct, request(estimator=pb.ESTIMATOR_MMSE))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith("estimator: expected an index of images of one size")
