"""Keys that do not fit into the memory of a device: a share stays there, the others pass through it.

Keys beyond the resident ones are divided into slices. For each block of queries every slice is copied from
host memory and summed; while one is summed, a thread copies the next. The sums of slices merge as those of
shards do.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.cancellation import never, raise_if_cancelled
from lemmse.estimator.device_rows import padding_of
from lemmse.estimator.exact import exact_sums
from lemmse.estimator.fused import FusedKeys, row_bytes
from lemmse.estimator.keys import Keys
from lemmse.estimator.queries import Queries
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import PosteriorSums
from lemmse.index.storage.packing import LANES, Packed

__all__ = ["KeyStream", "free_memory", "resident_edges"]

_SLICE = 1 << 27
"""Size of a slice, in bytes: some 20 ms of sums for 16 384 queries on a large GPU."""
_SHARE = 8
"""A slice takes at most one in so many bytes of the memory for keys."""
_LEAST_SLICE = 1 << 24
"""Size of the smallest slice, in bytes."""
_PLACES = 4
"""Slices for which there is memory: two that are copied, and what one becomes while it is summed."""
_WORK = 3 << 30
"""Memory of a GPU, in bytes, that is left for the sums: scores of products take the most."""


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU that keys may take; None for a CPU, which maps them."""
    return torch.cuda.mem_get_info(device)[0] - _WORK if device.type == "cuda" else None


def resident_edges(keys: Keys, memory: int | None) -> list[int]:
    """Return which keys stay on a device: those before the first edge; the others are slices between edges.

    Parameters
    ----------
    keys : Keys
        All keys.
    memory : int or None
        Bytes of the device that they may take; None if there is no limit.

    Raises
    ------
    InvalidArgument
        There is not enough memory to stream keys.
    """
    needed = keys.nbytes + row_bytes(keys)
    if memory is None or needed <= memory:
        return [keys.count]
    size = min(_SLICE, memory // _SHARE)
    if size < _LEAST_SLICE:
        least = min(needed, _SHARE * _LEAST_SLICE)
        raise InvalidArgument.of(
            "device",
            f"expected {(least + _WORK) / 1e9:.2f} GB free on {keys.device} for a share of the keys, "
            f"{(needed + _WORK) / 1e9:.2f} for all {keys.count}, got {(memory + _WORK) / 1e9:.2f}: "
            f"{(least - memory) / 1e9:.2f} GB are missing; use device cpu, or a scheduler whose workers have "
            "a GPU each",
        )
    step = max(1, size * keys.count // needed // LANES) * LANES
    parts = keys.packed.parts(0, keys.count)
    edges = [row for first, end in parts for row in range(first, end, step)] + [keys.count]
    most = keys.count * memory // needed - _PLACES * step
    first = max(number for number, edge in enumerate(edges) if edge <= most)
    return edges[first:]


class _Place:
    """Memory of a device into which slices are copied, one at a time."""

    def __init__(self, keys: Keys, rows: int) -> None:
        codes, moments = (_room(packed, rows, keys.device) for packed in (keys.packed, keys.packed_moments))
        self.into = codes, moments
        self._number = -1
        self._copied: Future[Keys] = Future()

    def find(self, number: int) -> Future[Keys] | None:
        """Return the slice of a number if it is here, or is being copied."""
        copied = self._copied
        failed = copied.done() and copied.exception() is not None
        return copied if self._number == number and not failed else None

    def put(self, number: int, copied: Future[Keys]) -> None:
        """Note the slice that is being copied."""
        self._number, self._copied = number, copied


class KeyStream:
    """Keys of which a share is in the memory of a device.

    Parameters
    ----------
    keys : Keys
        All keys of an index.
    edges : sequence of int
        Number of keys that stay on the device, and further edges of the slices: each begins a run.
    """

    def __init__(self, keys: Keys, edges: Sequence[int]) -> None:
        self._keys, self._slices = keys, list(pairwise(edges))
        rows = max(stop - start for start, stop in self._slices)
        self._places = _Place(keys, rows), _Place(keys, rows)
        self.resident = keys.section(0, edges[0])
        """The keys that stay on the device."""
        self.resident.load()  # waits for the device, which has then filled the places with zeros
        self._stream = None
        if keys.device.type == "cuda":
            self._stream = torch.cuda.Stream(keys.device)  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, "keys")
        self._lock = Lock()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def sums(self, queries: Queries, spec: SumSpec, fused: FusedKeys | None) -> PosteriorSums:
        """Return the posterior sums over all keys of the stratum of the queries.

        Parameters
        ----------
        queries, spec
            As for `exact_sums`.
        fused : FusedKeys or None
            The resident keys for the fused kernel, where it runs.

        Raises
        ------
        Cancelled
            `spec.cancelled()` was true; it is polled before every slice.
        """
        keys, stratum = self._keys, queries.stratum
        first, end = keys.strata[stratum : stratum + 2]
        some = [k for k, (start, stop) in enumerate(self._slices) if start < end and stop > first]
        total = PosteriorSums.empty(len(queries), keys.t_length, keys.p_length, spec.outputs, keys.device)
        if some:
            with self._lock:
                self._begin(some[0])
        if self.resident.count_in(stratum):
            total = exact_sums(self.resident, queries, spec, fused)
        for number, following in zip(some, some[1:] + some[:1], strict=True):
            # A poll may wait for other work, which may want the slices.
            raise_if_cancelled(spec.cancelled)
            with self._copied(number, following) as part:
                sums = exact_sums(
                    part, queries, replace(spec, cancelled=never), None if fused is None else fused.on(part)
                )
            key = torch.where(sums.top_key < 0, sums.top_key, sums.top_key + self._slices[number][0])
            total = total.merge(replace(sums, top_key=key))
        return total

    @contextmanager
    def _copied(self, number: int, following: int) -> Iterator[Keys]:
        """Have a slice on the device, and meanwhile begin to copy the one that is wanted next."""
        with self._lock:
            copied = self._begin(number, following)
            self._begin(following, number)
            try:
                yield copied.result()
            finally:
                if self._stream is not None:  # what was started may still read the slice
                    torch.cuda.current_stream(self._keys.device).synchronize()

    def _begin(self, number: int, kept: int | None = None) -> Future[Keys]:
        """Begin to copy a slice, unless it is there, but not over another one that is kept."""
        for place in self._places:
            found = place.find(number)
            if found is not None:
                return found
        place = next(place for place in self._places if kept is None or place.find(kept) is None)
        copied = self._thread.submit(self._copy, number, place.into)
        place.put(number, copied)
        return copied

    def _copy(self, number: int, into: tuple[Tensor, Tensor]) -> Keys:
        part = self._keys.section(*self._slices[number], into)
        beside: AbstractContextManager[Any] = nullcontext()
        if self._stream is not None:
            beside = torch.cuda.stream(self._stream)
        with beside:
            part.load()
        return part


def _room(packed: Packed, rows: int, device: torch.device) -> Tensor:
    """Return memory for packed rows, and for what a program of the kernel may read behind them."""
    size = -(-rows // LANES) * LANES * packed.length + padding_of(packed.length)
    return torch.zeros(size, dtype=torch.from_numpy(packed.values[:0]).dtype, device=device)
