"""Accesses of kernels in Triton's interpreter, each checked to be within the tensors of the launch."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

interpreter = pytest.importorskip("triton.runtime.interpreter", reason="Triton is for Linux")


@contextmanager
def within_bounds() -> Iterator[None]:
    """Have an access outside the tensors of a launch, or across the end of one, raise IndexError.

    On a GPU it would read or write other memory, and often go unnoticed. There nothing is checked.
    """
    checked, run = _Checked(interpreter._interpreter), interpreter.GridExecutor.__call__

    def checked_run(executor, *arguments, **others):
        checked.edges = _edges(x for x in (*arguments, *others.values()) if hasattr(x, "data_ptr"))
        return run(executor, *arguments, **others)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(interpreter, "_interpreter", checked)
        patched.setattr(interpreter.GridExecutor, "__call__", checked_run)
        yield


class _Checked:
    """The memory accesses of the interpreter; an access that no tensor contains is an error."""

    def __init__(self, plain):
        self._plain = plain
        self.edges = np.empty(0, np.uint64)

    def __getattr__(self, name):
        return getattr(self._plain, name)

    def load(self, place, mask, other, kind):
        self._check(place, mask, np.dtype(kind).itemsize)
        return self._plain.load(place, mask, other, kind)

    def store(self, place, values, mask):
        self._check(place, mask, values.itemsize)
        return self._plain.store(place, values, mask)

    def atomic_rmw(self, how, place, values, mask, order):
        self._check(place, mask, values.itemsize)
        return self._plain.atomic_rmw(how, place, values, mask, order)

    def _check(self, place, mask, size):
        place = place[mask.astype(bool)].astype(np.uint64)
        # Before an even number of edges: between tensors.
        first = np.searchsorted(self.edges, place, side="right")
        last = np.searchsorted(self.edges, place + np.uint64(size - 1), side="right")
        outside = (first % 2 == 0) | (last != first)
        if outside.any():
            raise IndexError(f"{outside.sum()} of {place.size} accesses are outside all tensors")
        if (place % np.uint64(size)).any():
            raise IndexError("an access is not aligned")


def _edges(tensors):
    """The first byte of each tensor and the one behind it, in ascending order."""
    spans = set()
    for tensor in tensors:
        assert tensor.is_contiguous()
        spans.add((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes))
    return np.array(sorted(span for span in spans if span[0] < span[1]), np.uint64).reshape(-1)
