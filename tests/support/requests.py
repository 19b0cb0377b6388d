"""Requests as any gRPC client may send them."""

from queue import SimpleQueue

import numpy as np

from lemmse.v1 import reconstruction_pb2 as pb
from lemmse.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor


def request(**changes):
    """A sound request for a 2 × 2 image, with some fields changed."""
    y = Tensor(dtype=DATA_TYPE_FLOAT32, shape=(2, 2), data=np.zeros(4, "<f4").tobytes())
    return pb.ReconstructRequest(**{"y": y, "sigma": 0.1} | changes)


class OpenStream:
    """A stream that stays open after its first answer, and so keeps its place in the server."""

    def __init__(self, stub):
        self._parts = SimpleQueue()
        self._answers = stub.ReconstructStream(iter(self._parts.get, None))
        self._items = 0
        self.ask()

    def ask(self):
        """Send one more item and return its answer."""
        self._items += 1
        self._parts.put(pb.ReconstructStreamRequest(item=self._items, request=request()))
        return next(self._answers)

    def close(self):
        """Say that there is no more, and return what the server still says."""
        self._parts.put(None)
        return list(self._answers)
