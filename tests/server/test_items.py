"""Items put together from the parts of a stream."""

import asyncio

import numpy as np
import pytest

from lemmse.contract.errors import MalformedMessage
from lemmse.server.items import items
from lemmse.server.memory import Memory, StreamMemory
from lemmse.v1.reconstruction_pb2 import ReconstructRequest, ReconstructStreamRequest
from lemmse.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor, TensorChunk

COMPLETE = np.arange(2, dtype="<f4").tobytes()


def begin(item, data=b"", shape=(2,)):
    tensor = Tensor(dtype=DATA_TYPE_FLOAT32, shape=shape, data=data)
    return ReconstructStreamRequest(item=item, request=ReconstructRequest(y=tensor))


def chunk(item, data, field="y"):
    return ReconstructStreamRequest(item=item, chunk=TensorChunk(field=field, data=data))


async def arriving(parts, arrived):
    for part in parts:
        arrived.append(part)
        yield part


def admit():
    stream = StreamMemory(Memory(1 << 20, patience=60), "client")
    return lambda incoming: stream.take(incoming.nbytes, whole=incoming.complete)


def outcomes(*parts):
    """Number and whether the item is whole, or the message of its error."""

    async def assembled():
        return [item async for item in items(arriving(parts, []), admit())]

    result = []
    for number, incoming, _ in asyncio.run(assembled()):
        try:
            if isinstance(incoming, MalformedMessage):
                raise incoming
            np.testing.assert_array_equal(incoming.arrays()["y"], [0, 1])
            result.append((number, "whole"))
        except MalformedMessage as error:
            result.append((number, error.argument))
    return result


def test_whole_and_in_chunks():
    parts = begin(1, COMPLETE), begin(7), chunk(7, COMPLETE[:3]), chunk(7, COMPLETE[3:]), begin(1, COMPLETE)
    assert outcomes(*parts) == [(1, "whole"), (7, "whole"), (1, "whole")]


def test_an_item_comes_with_its_last_byte():
    arrived = []

    async def first():
        parts = arriving((begin(1), chunk(1, COMPLETE), begin(2, COMPLETE)), arrived)
        return await anext(items(parts, admit()))

    asyncio.run(first())
    assert len(arrived) == 2


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ([begin(2, shape=(0,))], "y.shape"),
        ([begin(2, shape=(0,)), chunk(2, b"1"), chunk(2, b"2", "x")], "y.shape"),
        ([begin(2, b"1" * 9)], "y.data"),
        ([begin(2), chunk(2, b"1" * 9), chunk(2, b"1")], "y.data"),
        ([begin(2), chunk(2, b"1", "image"), chunk(2, COMPLETE)], "chunk.field"),
        ([begin(2), chunk(2, b"123")], "y.data"),
    ],
)
def test_a_bad_item_ends_alone(bad, field):
    assert outcomes(begin(1, COMPLETE), *bad, begin(3, COMPLETE)) == [(1, "whole"), (2, field), (3, "whole")]
    assert outcomes(*bad) == [(2, field)]


@pytest.mark.parametrize(
    "parts",
    [
        [chunk(1, COMPLETE)],
        [begin(1), chunk(2, COMPLETE)],
        [begin(1), begin(1)],
        [begin(1, COMPLETE), begin(1, COMPLETE)],
        [begin(1, COMPLETE), chunk(1, b"1")],
        [begin(1, shape=(0,)), chunk(2, b"1")],
        [ReconstructStreamRequest(item=1)],
    ],
)
def test_parts_that_cannot_be_told_apart_end_the_stream(parts):
    with pytest.raises(MalformedMessage):
        outcomes(*parts)
