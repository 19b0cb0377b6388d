"""Split a message with arrays into parts that each fit into one gRPC message, and reassemble it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import Message

from lemmse.contract.errors import MalformedMessage
from lemmse.contract.limits import CHUNK_BYTES, INLINE_BYTES
from lemmse.contract.tensors import WireArray, header, layout
from lemmse.v1 import tensor_pb2 as pb

__all__ = ["Incoming", "attach", "split"]

M = TypeVar("M", bound=Message)


def attach(message: M, arrays: Mapping[str, WireArray]) -> M:
    """Set the tensor fields of a message to arrays, in place, and return the message.

    Parameters
    ----------
    message : Message
        The message that has the tensor fields.
    arrays : mapping of str to ndarray, float32, float64 or uint8
        The arrays by the name of their tensor field.
    """
    for field, array in arrays.items():
        tensor = header(array)
        tensor.data = bytes(_elements(array))
        getattr(message, field).CopyFrom(tensor)
    return message


def split(message: M, arrays: Mapping[str, WireArray]) -> Iterator[M | pb.TensorChunk]:
    """Yield a message with its arrays: in one part if it is small, else the shapes first and then chunks.

    Parameters
    ----------
    message : Message
        The message that has the tensor fields. It is modified, and is the first part.
    arrays : mapping of str to ndarray, float32, float64 or uint8
        The arrays by the name of their tensor field.
    """
    if sum(array.nbytes for array in arrays.values()) <= INLINE_BYTES:
        yield attach(message, arrays)
        return
    for field, array in arrays.items():
        getattr(message, field).CopyFrom(header(array))
    yield message
    for field, array in arrays.items():
        elements = _elements(array)
        for start in range(0, len(elements), CHUNK_BYTES):
            yield pb.TensorChunk(field=field, data=bytes(elements[start : start + CHUNK_BYTES]))


def _elements(array: WireArray) -> memoryview:
    """Return the elements of an array as bytes, little-endian and in row-major order."""
    little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little_endian.reshape(-1).view(np.uint8).data


@dataclass(slots=True)
class _Arriving:
    """A tensor whose bytes have arrived in part."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int
    data: bytearray


class Incoming(Generic[M]):
    """A message whose tensors are complete or still arriving in chunks.

    Memory use grows with the bytes received, not with the announced shape.

    Parameters
    ----------
    message : Message
        The first part, in which every tensor of the message is set.

    Raises
    ------
    MalformedMessage
        A tensor has an invalid type or shape, or more bytes than its type and shape imply.

    Examples
    --------
    >>> from lemmse.v1.reconstruction_pb2 import ReconstructRequest
    >>> first, *chunks = split(ReconstructRequest(sigma=0.1), {"y": np.zeros((1500, 1500))})
    >>> incoming = Incoming(first)
    >>> incoming.complete, len(chunks)
    (False, 18)
    >>> for chunk in chunks:
    ...     incoming.add(chunk)
    >>> incoming.complete, incoming.arrays()["y"].shape
    (True, (1500, 1500))
    """

    def __init__(self, message: M) -> None:
        self.message = message
        self._tensors: dict[str, _Arriving] = {}
        for descriptor, value in message.ListFields():
            if isinstance(value, pb.Tensor):
                self._tensors[descriptor.name] = _Arriving(*layout(value, descriptor.name), bytearray())
                self._append(descriptor.name, value.data)

    @property
    def complete(self) -> bool:
        """Whether all bytes have arrived."""
        return all(len(tensor.data) == tensor.nbytes for tensor in self._tensors.values())

    @property
    def nbytes(self) -> int:
        """Size of all tensors, in bytes, once they are complete."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def add(self, chunk: pb.TensorChunk) -> None:
        """Append the bytes of a chunk to its tensor.

        Raises
        ------
        MalformedMessage
            The message has no such tensor, or the tensor would have more bytes than its shape implies.
        """
        if chunk.field not in self._tensors:
            known = ", ".join(self._tensors) or "none"
            raise MalformedMessage.of(
                "chunk.field", f"expected a tensor of the item ({known}), got {chunk.field[:40]!r}"
            )
        self._append(chunk.field, chunk.data)

    def arrays(self) -> dict[str, WireArray]:
        """Return the tensors as arrays, by field name.

        Raises
        ------
        MalformedMessage
            Bytes are missing.
        """
        for field, tensor in self._tensors.items():
            if len(tensor.data) < tensor.nbytes:
                raise MalformedMessage.of(
                    f"{field}.data",
                    f"expected {tensor.nbytes} bytes for {tensor.shape}, got {len(tensor.data)}",
                )
        return {
            field: np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape)
            for field, tensor in self._tensors.items()
        }

    def _append(self, field: str, data: bytes) -> None:
        tensor = self._tensors[field]
        arrived = len(tensor.data) + len(data)
        if arrived > tensor.nbytes:
            raise MalformedMessage.of(
                f"{field}.data", f"expected {tensor.nbytes} bytes for {tensor.shape}, got {arrived} or more"
            )
        tensor.data += data
