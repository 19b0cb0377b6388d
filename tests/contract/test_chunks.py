"""Arrays to messages and back: whole, in chunks, and what must be refused."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemmse.contract.choices import MAPS
from lemmse.contract.chunks import Incoming, split
from lemmse.contract.errors import MalformedMessage
from lemmse.contract.limits import CHUNK_BYTES, INLINE_BYTES, MESSAGE_BYTES, TENSOR_BYTES
from lemmse.contract.results import result_bytes
from lemmse.v1.reconstruction_pb2 import (
    ReconstructRequest,
    ReconstructResponse,
)
from lemmse.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor, TensorChunk

ARRAYS = st.sampled_from(["<f4", ">f4", "<f8", ">f8", "u1"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=4))
)


def joined(message, arrays):
    first, *chunks = split(message, arrays)
    assert all(part.ByteSize() <= MESSAGE_BYTES for part in (first, *chunks))
    incoming = Incoming(type(first).FromString(first.SerializeToString()))
    for chunk in chunks:
        assert not incoming.complete
        incoming.add(chunk)
    assert incoming.complete
    return incoming.arrays()


@given(ARRAYS, st.booleans())
def test_round_trip(array, transposed):
    array = array.T if transposed else array
    result = joined(ReconstructRequest(), {"y": array})["y"]
    assert result.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("count", [INLINE_BYTES // 4, INLINE_BYTES // 4 + 1, 3 * CHUNK_BYTES])
def test_round_trip_about_the_limit(count):
    array = np.arange(count, dtype=np.float32)
    parts = list(split(ReconstructRequest(), {"y": array}))
    assert (len(parts) == 1) == (array.nbytes <= INLINE_BYTES)
    np.testing.assert_array_equal(joined(ReconstructRequest(), {"y": array})["y"], array)


def test_several_tensors_in_one_item():
    rng = np.random.default_rng(0)
    answer = {"image": rng.random((700, 900, 3)), "ess": rng.random((700, 900)).astype(np.float32)}
    asked = {
        "y": rng.random((1100, 1100), np.float32),
        "sigma_map": rng.random((1100, 1100)),
        "mask": rng.integers(0, 2, (1100, 1100), np.uint8),
    }
    for message, arrays in ((ReconstructResponse(), answer), (ReconstructRequest(), asked)):
        result = joined(message, arrays)
        assert result.keys() == arrays.keys()
        for name, array in arrays.items():
            assert result[name].dtype == array.dtype
            np.testing.assert_array_equal(result[name], array)


def incoming(shape, data=b"", dtype=DATA_TYPE_FLOAT32):
    return Incoming(ReconstructRequest(y=Tensor(dtype=dtype, shape=shape, data=data)))


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        ({"shape": [1], "dtype": 0}, "y.dtype"),
        ({"shape": [1], "dtype": 77}, "y.dtype"),
        ({"shape": []}, "y.shape"),
        ({"shape": [1] * 9}, "y.shape"),
        ({"shape": [0, 3]}, "y.shape"),
        ({"shape": [-1, -1]}, "y.shape"),
        ({"shape": [2**62, 2**62]}, "y.shape"),
        ({"shape": [TENSOR_BYTES // 4 + 1]}, "y.shape"),
        ({"shape": [2], "data": b"123456789"}, "y.data"),
    ],
)
def test_refused_at_once(tensor, field):
    with pytest.raises(MalformedMessage) as caught:
        incoming(**tensor)
    assert caught.value.argument == field


def test_missing_bytes():
    with pytest.raises(MalformedMessage, match=r"y\.data: expected 8 bytes for \(2,\), got 3"):
        incoming([2], b"123").arrays()


def test_surplus_chunk():
    item = incoming([2])
    item.add(TensorChunk(field="y", data=b"1234"))
    with pytest.raises(MalformedMessage, match=r"y\.data: expected 8 bytes for \(2,\), got 9 or more"):
        item.add(TensorChunk(field="y", data=b"12345"))


@pytest.mark.parametrize("field", ["", "image", "sigma"])
def test_chunk_of_no_tensor(field):
    with pytest.raises(MalformedMessage, match=r"chunk\.field: expected a tensor of the item \(y\)"):
        incoming([2]).add(TensorChunk(field=field, data=b"1"))


def test_a_huge_shape_holds_no_memory():
    item = incoming([TENSOR_BYTES // 4])
    assert not item.complete
    assert sum(len(tensor.data) for tensor in item._tensors.values()) == 0


@given(hnp.array_shapes(min_dims=2, max_dims=4), st.frozensets(st.sampled_from(sorted(MAPS))))
def test_result_bytes(shape, maps):
    pixels = shape[:3]  # of three axes, the last may be columns of a volume
    like = {"image": shape, "variance": shape, "error": shape, "ess": pixels, "log_density": pixels}
    arrays = [np.zeros(like[name], np.float32) for name in {"image", *maps}]
    assert result_bytes(shape, maps) == sum(array.nbytes for array in arrays)
