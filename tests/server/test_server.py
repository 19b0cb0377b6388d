"""A real server, spoken to with the bare stubs: what any gRPC client sees."""

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import grpc
import hypothesis.strategies as st
import pytest
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_status import rpc_status
from hypothesis import given

from lemmse.contract.errors import InvalidArgument, NotFound, Unavailable
from lemmse.contract.limits import MAX_CONTRIBUTORS
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.v1 import index_pb2, index_pb2_grpc
from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub
from lemmse.v1.tensor_pb2 import DATA_TYPE_FLOAT32, DATA_TYPE_FLOAT64, DATA_TYPE_UINT8, Tensor, TensorChunk
from tests.support.requests import OpenStream, request

SERVICES = ["", "lemmse.v1.IndexService", "lemmse.v1.ReconstructionService"]


@pytest.fixture(scope="session")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="session")
def stub(channel):
    return ReconstructionServiceStub(channel)


def refusal(call, message):
    """Code, message and fields of the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(message)
    status = rpc_status.from_call(caught.value)
    fields = []
    for detail in status.details:
        bad = BadRequest()
        assert detail.Unpack(bad)
        fields += [violation.field for violation in bad.field_violations]
    return caught.value.code().name, status.message, fields


def test_mode_that_was_not_given_is_auto(stub):
    response = stub.Reconstruct(request())
    assert response.diagnostics.mode == pb.MODE_EXACT
    assert list(response.image.shape) == [2, 2]
    assert not response.HasField("variance")


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"y": None}, ["y"]),
        ({"y": Tensor(dtype=DATA_TYPE_FLOAT32, shape=(2, 2), data=b"123")}, ["y.data"]),
        ({"y": Tensor(dtype=DATA_TYPE_FLOAT32, shape=(2**40, 2**40))}, ["y.shape"]),
        ({"y": Tensor(shape=(1, 1), data=b"1234")}, ["y.dtype"]),
        ({"y": Tensor(dtype=DATA_TYPE_FLOAT32, shape=(1,), data=b"1234")}, ["y"]),
        ({"mode": 99}, ["mode"]),
        ({"maps": [99]}, ["maps"]),
        ({"maps": [0]}, ["maps"]),
        ({"sigma": 0}, ["sigma"]),
        ({"sigma": None}, ["sigma"]),
        (
            {"sigma": None, "sigma_map": Tensor(dtype=DATA_TYPE_UINT8, shape=(2, 2), data=b"1234")},
            ["sigma_map.dtype"],
        ),
        ({"sigma": None, "sigma_map": Tensor(dtype=DATA_TYPE_FLOAT32, shape=(2, 2))}, ["sigma_map.data"]),
        ({"sigma": None, "sigma_map": Tensor(dtype=DATA_TYPE_FLOAT32, shape=(1,), data=b"1234")}, ["sigma"]),
        ({"mask": Tensor(dtype=DATA_TYPE_FLOAT32, shape=(1, 1), data=b"1234")}, ["mask.dtype"]),
        ({"mask": Tensor(dtype=DATA_TYPE_UINT8, shape=(2, 2), data=b"12345")}, ["mask.data"]),
        ({"mask": Tensor(dtype=DATA_TYPE_UINT8, shape=(4,), data=b"1234")}, ["mask"]),
        ({"y": Tensor(dtype=DATA_TYPE_UINT8, shape=(2, 2), data=b"1234")}, ["y.dtype"]),
        ({"estimator": 99}, ["estimator"]),
        ({"topk": pb.TopK(k=0)}, ["k"]),
        ({"topk": pb.TopK(nprobe=0)}, ["nprobe"]),
        ({"mode": pb.MODE_HYBRID, "hybrid": pb.Hybrid(accuracy_db=0)}, ["accuracy_db"]),
        ({"mode": pb.MODE_HYBRID, "hybrid": pb.Hybrid(budget=0)}, ["budget"]),
        ({"mode": pb.MODE_TOPK, "maps": [pb.MAP_ERROR]}, ["maps"]),
        ({"error": 99}, ["error"]),
        ({"aggregate": 99}, ["aggregate"]),
        ({"bandwidth": -1}, ["bandwidth"]),
        ({"bandwidth": float("nan")}, ["bandwidth"]),
        ({"gaussian_share": -0.1}, ["gaussian_share"]),
        ({"gaussian_share": 2}, ["gaussian_share"]),
        ({"gaussian_share": float("nan")}, ["gaussian_share"]),
        ({"quality": 99}, ["quality"]),
    ],
)
def test_bad_request_names_the_field(stub, changes, fields):
    code, message, named = refusal(stub.Reconstruct, request(**changes))
    assert (code, named) == ("INVALID_ARGUMENT", fields)
    assert message.startswith(fields[0])


def test_what_was_not_given_of_quality_is_that_of_the_paper(stub):
    said = stub.Reconstruct(request()).diagnostics
    assert (said.aggregate, said.bandwidth, said.gaussian_share) == (pb.AGGREGATE_CENTRE, 0, 0)
    assert stub.Reconstruct(request(quality=pb.QUALITY_PAPER)).diagnostics.aggregate == pb.AGGREGATE_CENTRE


def test_what_the_exact_sum_knows_about_its_error(stub):
    response = stub.Reconstruct(request(mode=pb.MODE_EXACT, maps=[pb.MAP_ERROR]))
    assert response.error.data == bytes(16)
    assert not response.diagnostics.HasField("expected_accuracy_db")
    assert not response.diagnostics.HasField("certified")


def test_the_share_that_is_certified(stub):
    asked = {"maps": [pb.MAP_ERROR], "hybrid": pb.Hybrid(accuracy_db=40)}
    kinds = (pb.ERROR_KIND_UNSPECIFIED, pb.ERROR_KIND_ESTIMATED, pb.ERROR_KIND_CERTIFIED)
    answers = [stub.Reconstruct(request(mode=pb.MODE_HYBRID, error=kind, **asked)) for kind in kinds]
    assert [answer.diagnostics.mode for answer in answers] == [pb.MODE_HYBRID] * 3
    assert [answer.diagnostics.HasField("certified") for answer in answers] == [False, False, True]
    assert 0 <= answers[2].diagnostics.certified <= 1
    assert [list(answer.error.shape) for answer in answers] == [[2, 2]] * 3


def test_unknown_index(stub, channel):
    assert refusal(stub.Reconstruct, request(index="nope"))[:2] == (
        "NOT_FOUND",
        "index: expected one of tiny, got 'nope'",
    )
    get = index_pb2_grpc.IndexServiceStub(channel).GetIndex
    assert refusal(get, index_pb2.GetIndexRequest(name="nope"))[0] == "NOT_FOUND"


def test_explain_is_bounded(stub):
    asked = pb.ExplainRequest(y=request().y, sigma=0.1, top=MAX_CONTRIBUTORS + 1)
    assert refusal(stub.Explain, asked)[2] == ["top"]


def test_an_answer_that_does_not_fit_says_what_to_do(stub):
    y = Tensor(dtype=DATA_TYPE_FLOAT32, shape=(800, 800), data=bytes(800 * 800 * 4))
    code, message, fields = refusal(stub.Reconstruct, request(y=y, maps=[pb.MAP_VARIANCE]))
    assert (code, fields) == ("INVALID_ARGUMENT", ["y"])
    assert message.endswith("use ReconstructStream")


GARBAGE = st.builds(
    Tensor,
    dtype=st.integers(-1, 4),
    shape=st.lists(st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1), max_size=4),
    data=st.binary(max_size=80),
)


@given(field=st.sampled_from(["sigma_map", "mask"]), tensor=GARBAGE)
def test_garbage_beside_y_is_invalid_and_nothing_else(stub, field, tensor):
    call = stub.Reconstruct.future(
        request(**{"sigma": None} if field == "sigma_map" else {}, **{field: tensor})
    )
    if call.code() is grpc.StatusCode.OK:
        assert list(tensor.shape) in ([2, 2], [2, 2, 1])
    else:
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT


@given(vector=GARBAGE)
def test_a_vector_of_garbage_is_invalid_and_nothing_else(stub, vector):
    asked = pb.DifferentiateRequest(y=request().y, sigma=0.1, vector=vector)
    call = stub.Differentiate.future(asked)
    if call.code() is grpc.StatusCode.OK:
        assert list(vector.shape) == [2, 2]
    else:
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_to_differentiate_is_complete_and_known(stub):
    asked = {"y": request().y, "vector": request().y, "sigma": 0.1}
    product = stub.Differentiate(pb.DifferentiateRequest(**asked)).product
    assert (list(product.shape), product.data) == ([2, 2], bytes(16))
    for name in asked:
        lacking = pb.DifferentiateRequest(**{k: v for k, v in asked.items() if k != name})
        assert refusal(stub.Differentiate, lacking)[::2] == ("INVALID_ARGUMENT", [name])
    unknown = pb.DifferentiateRequest(**asked, index="nope")
    assert refusal(stub.Differentiate, unknown)[0] == "NOT_FOUND"


@given(GARBAGE)
def test_garbage_is_invalid_and_nothing_else(stub, y):
    call = stub.Reconstruct.future(request(y=y))
    if call.code() is grpc.StatusCode.OK:
        assert y.dtype in (DATA_TYPE_FLOAT32, DATA_TYPE_FLOAT64)
        assert list(call.result().image.shape) == list(y.shape)
    else:
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_stream_answers_each_item_in_its_place(stub):
    bad = pb.ReconstructRequest(y=Tensor(dtype=DATA_TYPE_FLOAT32, shape=(0,)), sigma=0.1)
    announced = request(y=Tensor(dtype=DATA_TYPE_FLOAT32, shape=(2, 2)))
    parts = [
        pb.ReconstructStreamRequest(item=5, request=request()),
        pb.ReconstructStreamRequest(item=9, request=bad),
        pb.ReconstructStreamRequest(item=2, request=announced),
        pb.ReconstructStreamRequest(item=2, chunk=TensorChunk(field="y", data=bytes(16))),
    ]
    answers = list(stub.ReconstructStream(iter(parts)))
    assert [(answer.item, answer.WhichOneof("part")) for answer in answers] == [
        (5, "response"),
        (9, "error"),
        (2, "response"),
    ]
    assert Status.FromString(answers[1].error).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_stream_that_cannot_be_trusted_ends(stub):
    parts = [
        pb.ReconstructStreamRequest(item=1, request=request()),
        pb.ReconstructStreamRequest(item=2, chunk=TensorChunk(field="y", data=b"1")),
    ]
    answers = stub.ReconstructStream(iter(parts))
    assert next(answers).item == 1
    assert refusal(lambda _: next(answers), None)[0] == "INVALID_ARGUMENT"


def test_bytes_that_are_no_message(channel, caplog):
    for method in ("Reconstruct", "Explain"):
        call = channel.unary_unary(f"/lemmse.v1.ReconstructionService/{method}")
        assert refusal(call, b"\xff" * 9)[::2] == ("INVALID_ARGUMENT", ["message"])
    stream = channel.stream_stream("/lemmse.v1.ReconstructionService/ReconstructStream")
    assert refusal(lambda parts: list(stream(iter(parts))), [b"\xff" * 9])[::2] == (
        "INVALID_ARGUMENT",
        ["message"],
    )
    assert refusal(channel.unary_unary("/grpc.health.v1.Health/Check"), b"\xff")[0] == "INVALID_ARGUMENT"
    assert "Traceback" not in caplog.text


def test_a_call_without_a_request(channel):
    call = channel.stream_unary("/lemmse.v1.ReconstructionService/Reconstruct")
    assert refusal(call, iter([]))[::2] == ("INVALID_ARGUMENT", ["message"])


def test_health_and_reflection(channel):
    health = HealthStub(channel)
    for service in [*SERVICES, "index/tiny"]:
        assert health.Check(HealthCheckRequest(service=service)).status == HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
    names = {service.name for service in answer.list_services_response.service}
    assert names > {"lemmse.v1.IndexService", "lemmse.v1.ReconstructionService", "grpc.health.v1.Health"}


def test_load_is_refused_and_health_is_not(larger_index):
    server = Server(ServerConfig(indexes=(larger_index,), listen="127.0.0.1:0", threads=1, queue=1))
    endless = request(y=Tensor(dtype=DATA_TYPE_FLOAT32, shape=(900, 900), data=bytes(900 * 900 * 4)))
    ended = SimpleQueue()
    with grpc.insecure_channel(server.address) as channel:
        stub, health = ReconstructionServiceStub(channel), HealthStub(channel)
        calls = [stub.Reconstruct.future(endless) for _ in range(12)]
        for call in calls:
            call.add_done_callback(ended.put)
        for _ in range(10):
            assert ended.get(timeout=30).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert health.Check(HealthCheckRequest(), timeout=10).status == HealthCheckResponse.SERVING
        for call in calls:
            call.cancel()
        assert stub.Reconstruct(request(), timeout=30, wait_for_ready=True).HasField("image")
    server.stop(0)


def test_stopping_tells_health_first_and_lets_calls_finish(tiny_index):
    server = Server(ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1))
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(1) as stopper:
        watch = HealthStub(channel).Watch(HealthCheckRequest())
        assert next(watch).status == HealthCheckResponse.SERVING
        stream = OpenStream(ReconstructionServiceStub(channel))
        stopped = stopper.submit(server.stop, 60)
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert stream.ask().HasField("response")
        assert stream.close() == []
        stopped.result(30)


def test_a_watcher_that_leaves_does_not_take_the_others_along(tiny_index):
    server = Server(ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1))
    with grpc.insecure_channel(server.address) as channel:
        stays, leaves = (HealthStub(channel).Watch(HealthCheckRequest()) for _ in range(2))
        assert next(stays).status == next(leaves).status == HealthCheckResponse.SERVING
        leaves.cancel()
        server.stop(0)
        assert next(stays).status == HealthCheckResponse.NOT_SERVING


def test_a_host_with_an_address_that_is_taken_is_refused(server, tiny_index):
    """One of the addresses of localhost is free."""
    port = server.address.rpartition(":")[2]
    with pytest.raises(Unavailable, match=f"cannot listen on localhost:{port}"):
        Server(ServerConfig(indexes=(tiny_index,), listen=f"localhost:{port}", threads=1))


def test_a_taken_port_is_refused(server, tiny_index):
    with pytest.raises(Unavailable, match=f"cannot listen on {server.address}"):
        Server(ServerConfig(indexes=(tiny_index,), listen=server.address, threads=1))


def test_two_indexes(tiny_index, larger_index):
    config = ServerConfig(indexes=(tiny_index, larger_index), listen="127.0.0.1:0", threads=1)
    server = Server(config)
    with grpc.insecure_channel(server.address) as channel:
        stub = ReconstructionServiceStub(channel)
        listed = index_pb2_grpc.IndexServiceStub(channel).ListIndexes(index_pb2.ListIndexesRequest())
        assert [index.name for index in listed.indexes] == ["larger", "tiny"]
        assert stub.Reconstruct(request(index="tiny")).diagnostics.index == "tiny"
        assert refusal(stub.Reconstruct, request())[:2] == (
            "INVALID_ARGUMENT",
            "index: expected one of larger, tiny, got no name",
        )
    server.stop(0)


def test_what_cannot_be_loaded(tiny_index, tmp_path):
    with pytest.raises(InvalidArgument, match="'tiny' twice"):
        Server(ServerConfig(indexes=(tiny_index, tiny_index), listen="127.0.0.1:0"))
    with pytest.raises(NotFound):
        Server(ServerConfig(indexes=(tmp_path / "nope",), listen="127.0.0.1:0"))
