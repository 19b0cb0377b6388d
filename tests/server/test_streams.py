"""Streams whose items are received, computed and sent at the same time."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue

import grpc
import numpy as np
import pytest
from google.rpc.status_pb2 import Status
from prometheus_client import REGISTRY

from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from lemmse.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor, TensorChunk
from tests.support.requests import OpenStream, request


@contextmanager
def serving(index, **settings):
    """A server and a stub of it."""
    server = Server(ServerConfig(indexes=(index,), listen="127.0.0.1:0", threads=1, **settings))
    fixed_window = (("grpc.http2.bdp_probe", 0),)
    try:
        with grpc.insecure_channel(server.address, options=fixed_window) as channel:
            yield server, ReconstructionServiceStub(channel)
    finally:
        server.stop(0)


def image(side, value=0.0):
    data = np.full((side, side), value, "<f4").tobytes()
    return Tensor(dtype=DATA_TYPE_FLOAT32, shape=(side, side), data=data)


def item(number, side=2, value=0.0, **changes):
    return pb.ReconstructStreamRequest(item=number, request=request(y=image(side, value), **changes))


def in_two_parts(number, side):
    """An item whose bytes follow its message."""
    whole = image(side)
    y = Tensor(dtype=whole.dtype, shape=whole.shape)
    yield pb.ReconstructStreamRequest(item=number, request=request(y=y))
    yield pb.ReconstructStreamRequest(item=number, chunk=TensorChunk(field="y", data=whole.data))


class Stream:
    """A stream that stays open."""

    def __init__(self, stub, *parts):
        self._parts = SimpleQueue()
        for part in parts:
            self._parts.put(part)
        self.call = stub.ReconstructStream(iter(self._parts.get, None), timeout=120)

    def leave(self):
        self.call.cancel()
        self._parts.put(None)


def phases():
    """Numbers of items that have been decoded, computed and encoded."""
    return np.array(
        [
            REGISTRY.get_sample_value("lemmse_phase_seconds_count", {"phase": phase}) or 0
            for phase in ("decode", "compute", "encode")
        ]
    )


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # leaves the processor to the server


def used(server):
    return server._reconstruction._memory.used


def endless(number):
    """An item that takes minutes with the larger index."""
    return item(number, side=900, mode=pb.MODE_EXACT)


def test_answers_in_order_with_bad_items_among_them(tiny_index):
    """Small and large, bad before and after it is decoded."""
    bad = {3: {"sigma": -1.0}, 4: {"index": "nope"}, 9: {"mode": 99}}
    with serving(tiny_index) as (_, stub):
        asked = [item(n, 40 if n % 3 else 2, n / 12, **bad.get(n, {})) for n in range(12)]
        answers = list(stub.ReconstructStream(iter(asked)))
        assert [answer.item for answer in answers] == list(range(12))
        for n, answer in enumerate(answers):
            if n in bad:
                code = Status.FromString(answer.error).code
                assert code == (5 if n == 4 else 3)
            else:
                assert answer.response.image.data == stub.Reconstruct(asked[n].request).image.data


def test_an_item_is_decoded_while_the_one_before_it_is_computed(larger_index):
    with serving(larger_index) as (_, stub):
        before = phases()
        stream = Stream(stub, endless(1), item(2))
        wait_until(lambda: (phases() - before)[0] == 2)
        assert (phases() - before).tolist() == [2, 0, 0]
        assert REGISTRY.get_sample_value("lemmse_queue_length") == 1
        stream.leave()


def test_one_is_sent_one_computed_and_one_decoded_and_no_more_is_read(tiny_index):
    """The answers, of several messages, are not taken."""
    maps = [pb.MAP_VARIANCE, pb.MAP_ESS, pb.MAP_LOG_DENSITY]
    nbytes = 5 * 4 * 540**2
    with serving(tiny_index) as (server, stub):
        before = phases()
        stream = Stream(stub, *[item(number, side=540, maps=maps) for number in range(5)])
        wait_until(lambda: (phases() - before).tolist() == [3, 2, 0])
        assert used(server) == 3 * nbytes
        stream.leave()
        wait_until(lambda: used(server) == 0)
        assert (phases() - before).tolist() == [3, 2, 0]


def test_a_stream_that_is_cancelled_leaves_nothing_of_the_item_ahead(larger_index):
    with serving(larger_index) as (server, stub):
        before = phases()
        stream = Stream(stub, endless(1), endless(2))
        wait_until(lambda: (phases() - before)[0] == 2)
        assert used(server) == 2 * 2 * 4 * 900**2
        stream.leave()
        wait_until(lambda: used(server) == 0)
        assert REGISTRY.get_sample_value("lemmse_queue_length") == 0
        assert stub.Reconstruct(request(), timeout=60).HasField("image")
        assert (phases() - before)[0] == 3  # the item ahead was not computed


def test_a_client_that_waits_for_its_answer_is_not_silent(larger_index):
    """The answer takes longer than the server waits for a message of a silent client."""
    with serving(larger_index, idle_timeout=0.2) as (_, stub):
        stream = Stream(stub, item(1, side=160, mode=pb.MODE_EXACT))
        assert next(stream.call).response.diagnostics.seconds > 0.2
        with pytest.raises(grpc.RpcError) as ended:
            next(stream.call)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "silent" in ended.value.details()
        stream.leave()


def test_an_item_that_is_half_sent_does_not_hold_memory_until_the_one_before_it_is_answered(larger_index):
    with serving(larger_index, idle_timeout=1.0) as (server, stub):
        stream = Stream(stub, endless(1), next(in_two_parts(2, 40)))
        whole = 2 * 4 * 900**2
        wait_until(lambda: used(server) == whole + 2 * 4 * 40**2)
        wait_until(lambda: used(server) == whole)
        assert stream.call.is_active()
        stream.leave()


def test_a_stream_that_is_owed_an_answer_makes_no_room(larger_index, monkeypatch):
    monkeypatch.setattr("lemmse.server.open_calls._SILENT", 0.0)
    with serving(larger_index, calls=2) as (_, stub):
        before = phases()
        busy = Stream(stub, endless(1))
        wait_until(lambda: (phases() - before)[0] == 1)
        idle = OpenStream(stub)
        assert stub.Reconstruct(request(), timeout=60).HasField("image")
        with pytest.raises(grpc.RpcError) as ended:
            idle.close()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert busy.call.is_active()
        busy.leave()


def test_nothing_is_read_ahead_where_too_many_wait_for_messages(larger_index, monkeypatch):
    monkeypatch.setattr("lemmse.server.receiving._LEAST", 1)
    settings = {"memory": 4 << 20, "max_bytes": 2 << 20}  # one call may wait for a message
    with serving(larger_index, **settings) as (_, stub):
        before = phases()
        stream = Stream(stub, item(1, side=160, mode=pb.MODE_EXACT), item(2))
        wait_until(lambda: (phases() - before)[0] == 1)
        assert stub.Reconstruct(request(), timeout=60).HasField("image")  # there is room for its message
        assert (phases() - before)[0] == 2
        assert next(stream.call).item == 1
        assert next(stream.call).item == 2
        stream.leave()


@pytest.mark.parametrize("parts", [lambda n, side: [item(n, side)], in_two_parts])
@pytest.mark.parametrize("streams", [1, 2])
def test_memory_for_few_items(tiny_index, streams, parts):
    """Each stream has room for one item: none waits for ever."""
    side, nbytes = 40, 2 * 4 * 40**2
    with (
        serving(tiny_index, memory=2 * nbytes, max_bytes=nbytes) as (server, stub),
        ThreadPoolExecutor(streams) as pool,
    ):

        def ask(_):
            asked = [part for number in range(4) for part in parts(number, side)]
            return [answer.item for answer in stub.ReconstructStream(iter(asked), timeout=60)]

        assert list(pool.map(ask, range(streams))) == [[0, 1, 2, 3]] * streams
        assert used(server) == 0
