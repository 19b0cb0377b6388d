"""The keys of an index in the memory of Dask workers: each sums over its own, and the sums are merged here.

Sums over disjoint sets of keys merge exactly, so that where keys lie changes nothing but the rounding. Each
section of the index, a run of its shards, is read by one worker; when that is lost another reads it, and
what was asked of it is asked again. The answer has every section in it, or is an error.

Workers compute one task at a time, on the CPU, with as many threads as their environment says.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, reduce
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.local import Local
from lemmse.estimator.method import Method
from lemmse.estimator.queries import Queries
from lemmse.estimator.sums import PosteriorSums, Want
from lemmse.estimator.training import Extent, Training
from lemmse.estimator.work import Cancel, never, stop_if
from lemmse.index import Index
from lemmse.index.errors import InvalidArgument, NotFound, Unavailable
from lemmse.index.section import Section, cut
from lemmse.index.workers import PATIENCE, connect, distributed

__all__ = ["Spread"]

_CPU = torch.device("cpu")
_BLOCK = 2048
"""Queries in a task at most: what was begun is not stopped when nobody waits for it any more."""
_BYTES = 1 << 22
"""What the arrays of a task come to at most, unless one query has more: all pass through the scheduler."""
_POLL = 0.1
"""Seconds between two looks at whether anybody still waits."""


class Spread(Training):
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
                self._sections = cut(index, len(self._workers()))
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
        how = self._of_each(method)

        def arguments(rows: Tensor) -> tuple[Any, ...]:
            return queries.rows(rows), stratum, how, want, None if about is None else about[rows]

        return self._merged(_sums, arguments, len(queries), cancelled)

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
        """Sums over all keys that count for patches of B y, see `Training`."""
        how = self._of_each(method)

        def arguments(rows: Tensor) -> tuple[Any, ...]:
            some = rows.numpy()
            return u[some], stratum[some], sigma, how, want, None if about is None else about[rows]

        return self._merged(_strata_sums, arguments, len(u), cancelled)

    def _of_each(self, method: Method) -> Method:
        """How each section is to be summed."""
        if method.mode == "topk":
            raise InvalidArgument("mode", "expected auto, exact or hybrid with a scheduler, got topk")
        budget = method.budget
        return replace(method, budget=None if budget is None else max(1, budget // len(self._sections)))

    def _merged(
        self,
        function: Callable[..., PosteriorSums],
        arguments: Callable[[Tensor], tuple[Any, ...]],
        queries: int,
        cancelled: Cancel,
    ) -> PosteriorSums:
        """Sums over all sections, of a function of each and of what belongs to some rows of the queries."""
        # A query has its patch in float64, or in float32 twice.
        block = max(1, min(_BLOCK, _BYTES // (8 * self.index.patch_length)))
        blocks = [arguments(rows) for rows in torch.split(torch.arange(queries), block)]
        sections = range(len(self._sections))
        tasks = [(section, function, some) for some in blocks for section in sections]
        sums = self._answers(tasks, cancelled)
        return PosteriorSums.join(
            [
                reduce(PosteriorSums.merge, sums[start : start + len(sections)])
                for start in range(0, len(sums), len(sections))
            ]
        )

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
            if self._client.status != "running":
                self._client.close(timeout=0)
                try:
                    self._client = connect(self._address)
                except NotFound as error:
                    raise Unavailable(str(error)) from error
            lost = [i for i, held in enumerate(self._held) if held is None or held.status not in _SOUND]
            workers = self._workers() if lost else []
            for i in lost:
                self._held[i] = self._client.submit(
                    _Held,
                    self._sections[i],
                    workers=[workers[i % len(workers)]],
                    allow_other_workers=True,
                    pure=False,
                )
            return list(self._held)

    def _workers(self) -> list[str]:
        """Addresses of the workers, of which there is one at least."""
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise Unavailable(f"scheduler: no worker is there at {self._address}") from error
        return sorted(self._client.nthreads())

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


_SOUND = ("pending", "finished")
"""What a section is on a worker that has it or will have it."""


class _Held:
    """A section and its keys, on a worker; another that is to have it reads it anew."""

    def __init__(self, section: Section) -> None:
        section.verify()
        self.local = Local(section, _CPU)
        self.first_key = section.first_key

    def __reduce__(self) -> tuple[type["_Held"], tuple[Index]]:
        """Have another process read it anew."""
        return type(self), (self.local.index,)

    def __sizeof__(self) -> int:
        """Bytes of the keys, by which Dask knows how much a worker holds."""
        keys = self.local.keys
        return keys.features.nbytes + keys.moments.nbytes

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
