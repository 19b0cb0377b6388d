"""Element type, shape and byte length of a tensor message."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import MalformedMessage
from lemmse.contract.limits import TENSOR_BYTES
from lemmse.v1 import tensor_pb2 as pb

__all__ = ["FloatArray", "WireArray", "header", "layout"]

FloatArray = NDArray[np.float32] | NDArray[np.float64]
"""An image or a map, float32 or float64."""

WireArray = FloatArray | NDArray[np.uint8]
"""An array that can be sent: float32, float64 or, for masks, uint8."""

_DTYPES: dict[pb.DataType.ValueType, np.dtype[Any]] = {
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    pb.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    pb.DATA_TYPE_UINT8: np.dtype(np.uint8),
}
_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}
_KNOWN = ", ".join(f"{dtype.name} ({number})" for number, dtype in _DTYPES.items())
_MAX_RANK = 8


def header(array: WireArray) -> pb.Tensor:
    """Return the tensor message for an array, without the elements.

    Parameters
    ----------
    array : ndarray, float32, float64 or uint8
        Any shape.
    """
    return pb.Tensor(dtype=_NUMBERS[array.dtype.newbyteorder("<")], shape=array.shape)


def layout(tensor: pb.Tensor, field: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return the dtype, shape and byte length of a tensor.

    Parameters
    ----------
    tensor : Tensor
        The tensor; its `data` is ignored.
    field : str
        Path of the field that holds the tensor, for error messages.

    Raises
    ------
    MalformedMessage
        The element type is unknown, the shape is invalid, or the array would be too large.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise MalformedMessage.of(f"{field}.dtype", f"expected one of {_KNOWN}, got {tensor.dtype}")
    rank = len(tensor.shape)
    if not 1 <= rank <= _MAX_RANK:
        raise MalformedMessage.of(f"{field}.shape", f"expected 1 to {_MAX_RANK} axes, got {rank}")
    shape = tuple(tensor.shape)
    if min(shape) < 1:
        raise MalformedMessage.of(f"{field}.shape", f"expected lengths >= 1, got {shape}")
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > TENSOR_BYTES:
        raise MalformedMessage.of(
            f"{field}.shape",
            f"expected at most {TENSOR_BYTES} bytes, got {shape} of {dtype.name}: {nbytes} bytes",
        )
    return dtype, shape, nbytes
