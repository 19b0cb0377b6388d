"""The keys of an index on Dask workers: each sums over its own, and the sums are merged here.

Sums over disjoint sets of keys merge exactly, so that where keys lie changes nothing but the rounding. Each
section of the index, a run of its shards, is read by one worker; when that is lost another reads it, and
what was asked of it is asked again. The answer has every section in it, or is an error.

Workers sum on the CPU. Let each compute one task at a time, in which it uses the threads that its environment
gives to OpenMP; and give it memory enough for its keys, for what Dask writes to disk is read from there anew.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.contract.errors import InvalidArgument, NotFound, Unavailable
from lemmse.estimator.backend import Backend, Extent
from lemmse.estimator.cancellation import Cancel, never, stop_if
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.method import Known, Method
from lemmse.estimator.queries import Queries
from lemmse.estimator.sums import HEAVIEST, PosteriorSums, Want
from lemmse.index import Index
from lemmse.index.dask_workers import PATIENCE, addresses, connect, distributed
from lemmse.index.reading.shard_view import ShardView, split_shards

__all__ = ["DistributedBackend"]

_CPU = torch.device("cpu")
_BLOCK = 2048
"""Queries in a task at most: what was begun is not stopped when nobody waits for it any more."""
_BYTES = 1 << 22
"""What the arrays of a task come to at most, unless one query has more: all pass through the scheduler."""
_POLL = 0.1
"""Seconds between two looks at whether anybody still waits."""


class DistributedBackend(Backend):
    """The keys of an index on the workers of a Dask cluster, which see its folder under the same path.

    Parameters
    ----------
    index : Index
        The index; its shards are read by the workers at once, as many sections as there are workers.
    scheduler : str
        Address of the scheduler.

    Raises
    ------
    InvalidArgument
        Dask is not installed.
    NotFound
        No scheduler answers at the address.
    DataLoss
        A worker does not see the index, or finds a file missing, cut short or altered.
    Unavailable
        There is no worker, or workers were lost again and again.
    """

    def __init__(self, index: Index, scheduler: str) -> None:
        super().__init__(index, _CPU)
        self._address = scheduler
        self._client = connect(scheduler)
        self._lock = Lock()
        try:
            with self._reached():
                self._sections = split_shards(index, len(addresses(self._client)))
            self._held: list[Any] = [None] * len(self._sections)
            _ = self.extent
        except BaseException:
            self.close()
            raise

    def prepare(self) -> None:
        """Have all workers make hybrid ready."""
        self._of_all(_prepared, never)

    def close(self) -> None:
        """Have the workers let go of the keys."""
        self._client.close()

    @cached_property
    def extent(self) -> Extent:
        """How many keys there are, and what their targets are within."""
        extents: list[Extent] = self._of_all(_extent, never)
        return reduce(Extent.merge, extents)

    def sums(
        self,
        queries: Queries,
        stratum: int,
        method: Method,
        want: Want,
        cancelled: Cancel,
        about: Tensor | None = None,
    ) -> PosteriorSums:
        """Sums over the keys of a stratum, without normalising constants."""

        def arguments(rows: Tensor, how: Method, want: Want) -> tuple[Any, ...]:
            some = how.of(rows.numpy())
            return queries.rows(rows), stratum, some, want, None if about is None else about[rows]

        return self._merged(_Ask(_sums, arguments, torch.arange(len(queries)), cancelled), method, want)

    def strata_sums(
        self,
        u: NDArray[np.float64],
        stratum: NDArray[np.int64],
        sigma: float,
        method: Method,
        want: Want,
        cancelled: Cancel,
        about: Tensor | None = None,
    ) -> PosteriorSums:
        """Sums over all keys that count for patches of B y, see `Backend`."""

        def arguments(rows: Tensor, how: Method, want: Want) -> tuple[Any, ...]:
            some = rows.numpy()
            return u[some], stratum[some], sigma, how.of(some), want, None if about is None else about[rows]

        return self._merged(_Ask(_strata_sums, arguments, torch.arange(len(u)), cancelled), method, want)

    def _merged(self, ask: "_Ask", method: Method, want: Want) -> PosteriorSums:
        """Sums over all sections."""
        sections = len(self._sections)
        if method.mode == "topk":
            raise InvalidArgument.of("mode", "expected auto, exact or hybrid with a scheduler, got topk")
        if method.mode == "exact" or sections == 1:
            return reduce(PosteriorSums.merge, self._of_each(ask, [method] * sections, want))
        # What hybrid opens depends on Σ w over all keys, so that each section first says what it has of that.
        share = None if method.budget is None else method.budget // sections
        looks = self._of_each(ask, [replace(method, mode="look", budget=share)] * sections, HEAVIEST)
        log_z_of_each = torch.stack([look.log_max + look.moments[:, 0].log() for look in looks])
        log_z = torch.logsumexp(log_z_of_each, dim=0).numpy()
        method = replace(method, budget=None if share is None else share - share // 2)
        each = []
        for look, section in zip(looks, self._sections, strict=True):
            key = look.top_key[:, 0].numpy()
            key = np.where(key < 0, key, key - section.first_key)
            each.append(replace(method, known=Known(log_z, key)))
        sums = reduce(PosteriorSums.merge, self._of_each(ask, each, want))
        empty = torch.nonzero(sums.moments[:, 0] == 0)[:, 0]
        if len(empty):  # nothing was found of what seemed to be there: each section opens what counts in it
            ask = replace(ask, rows=empty)
            sums = sums.put(empty, reduce(PosteriorSums.merge, self._of_each(ask, [method] * sections, want)))
        return replace(sums, touched=sum((look.touched for look in looks), sums.touched))

    def _of_each(self, ask: "_Ask", methods: Sequence[Method], want: Want) -> list[PosteriorSums]:
        """Sums over each section, by a method for each."""
        # A query has its patch in float64, or in float32 twice.
        block = max(1, min(_BLOCK, _BYTES // (8 * self.index.patch_length)))
        blocks = torch.split(ask.rows, block)
        tasks = [
            (section, ask.function, ask.arguments(rows, method, want))
            for section, method in enumerate(methods)
            for rows in blocks
        ]
        sums = self._answers(tasks, ask.cancelled)
        return [
            PosteriorSums.join(sums[first : first + len(blocks)])
            for first in range(0, len(sums), len(blocks))
        ]

    def _of_all(self, function: Callable[..., Any], cancelled: Cancel) -> list[Any]:
        """What a function of each section gives."""
        return self._answers([(section, function, ()) for section in range(len(self._sections))], cancelled)

    def _answers(
        self, tasks: Sequence[tuple[int, Callable[..., Any], tuple[Any, ...]]], cancelled: Cancel
    ) -> list[Any]:
        """What functions of sections and other arguments give, each where the section is."""
        with self._reached():
            held = self._hold()
            client = self._client
            futures = [
                client.submit(function, held[section], *arguments, pure=False)
                for section, function, arguments in tasks
            ]
            try:
                return self._results(futures, cancelled)
            finally:
                client.cancel(futures)

    def _results(self, futures: Sequence[Any], cancelled: Cancel) -> list[Any]:
        """Wait for the results; a task whose worker was lost is done by another, which Dask sees to."""
        wait, seen = distributed("scheduler").wait, time.monotonic()
        while True:
            stop_if(cancelled)
            try:
                with self._client.as_current():
                    wait(futures, timeout=_POLL)
                return [future.result(timeout=PATIENCE) for future in futures]
            except TimeoutError:
                for future in futures:
                    if future.status == "error":
                        future.result()
                if self._client.nthreads():
                    seen = time.monotonic()
                elif time.monotonic() - seen > PATIENCE:
                    raise Unavailable(f"scheduler: no worker is left at {self._address}") from None

    def _hold(self) -> list[Any]:
        """The sections on their workers, read anew where that failed or the connection was lost."""
        with self._lock:
            if self._client.status == "connecting":  # it tries to for a while, then it closes
                raise Unavailable(f"scheduler: the connection to {self._address} was lost")
            if self._client.status != "running":
                try:
                    self._client = connect(self._address)
                except NotFound as error:
                    raise Unavailable(str(error)) from error
            lost = [i for i, held in enumerate(self._held) if held is None or held.status not in _SOUND]
            workers = addresses(self._client) if lost else []
            for i in lost:
                self._held[i] = self._client.submit(
                    _Held,
                    self._sections[i],
                    workers=[workers[i % len(workers)]],
                    allow_other_workers=True,
                    pure=False,
                )
            return list(self._held)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Tell what Dask reports as an error of ours."""
        dask = distributed("scheduler")
        try:
            yield
        except dask.KilledWorker as error:
            raise Unavailable(
                f"scheduler: workers at {self._address} were lost again and again over the same task; "
                f"each needs memory for its part of the keys"
            ) from error
        except (CancelledError, dask.client.ClosedClientError, OSError) as error:
            raise Unavailable(f"scheduler: {self._address} does not answer") from error


@dataclass(frozen=True, slots=True, eq=False)
class _Ask:
    """What sections are asked for."""

    function: Callable[..., PosteriorSums]
    """Function of a section on its worker, and of arguments."""
    arguments: Callable[[Tensor, Method, Want], tuple[Any, ...]]
    """Its arguments for some rows of the queries."""
    rows: Tensor
    """Rows of the queries that are asked about."""
    cancelled: Cancel


_SOUND = ("pending", "finished")
"""What a section is on a worker that has it or will have it."""


class _Held:
    """A section and its keys, on a worker; another that is to have it reads it anew."""

    def __init__(self, section: ShardView) -> None:
        section.verify()
        self.local = LocalBackend(section, _CPU)
        self.first_key = section.first_key

    def __reduce__(self) -> tuple[type["_Held"], tuple[Index]]:
        """Have another process read it anew."""
        return type(self), (self.local.index,)

    def __sizeof__(self) -> int:
        """Bytes of the keys, mapped though they are: Dask counts what of them is resident too."""
        return self.local.keys.nbytes

    def numbered(self, sums: PosteriorSums) -> PosteriorSums:
        """The sums with keys as the whole index numbers them."""
        key = sums.top_key
        return replace(sums, top_key=torch.where(key < 0, key, key + self.first_key))


def _prepared(held: _Held) -> None:
    held.local.prepare_hybrid()


def _extent(held: _Held) -> Extent:
    return held.local.extent


def _sums(
    held: _Held, queries: Queries, stratum: int, method: Method, want: Want, about: Tensor | None
) -> PosteriorSums:
    return held.numbered(held.local.sums(queries, stratum, method, want, never, about))


def _strata_sums(
    held: _Held,
    u: NDArray[np.float64],
    stratum: NDArray[np.int64],
    sigma: float,
    method: Method,
    want: Want,
    about: Tensor | None,
) -> PosteriorSums:
    return held.numbered(held.local.strata_sums(u, stratum, sigma, method, want, never, about))
