"""The backend for keys on Dask workers: each worker sums over its own keys, and this process merges the sums.

Sums over disjoint sets of keys merge exactly, so the distribution of the keys changes only the rounding. Each
shard view of the index, a range of its shards, is read by one worker; if that worker is lost, another one
reads the view and Dask repeats the tasks. An answer includes every view, or is an error.

Workers sum on the CPU, or each on a GPU of its own. Each should run one task at a time, which uses as many
threads as its environment gives to OpenMP, and have enough memory for its keys: those that Dask spills to
disk have to be read again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, reduce
from itertools import islice
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.contract.errors import InvalidArgument, NotFound, Unavailable
from lemmse.estimator.backend import DEFAULT_EXACT_WORK, Backend, Extent
from lemmse.estimator.cancellation import Cancel, never, raise_if_cancelled
from lemmse.estimator.covariances import Covariances
from lemmse.estimator.local import LocalBackend, as_device
from lemmse.estimator.queries import Queries
from lemmse.estimator.stratum_sums import ColouredQueries
from lemmse.estimator.sum_spec import NormalizerEstimate, SumSpec
from lemmse.estimator.sums import HEAVIEST, PosteriorSums
from lemmse.index import Index
from lemmse.index.dask_workers import PATIENCE, addresses, connect, distributed
from lemmse.index.reading import HeldOutView, ShardView, leave_out, split_shards

__all__ = ["DistributedBackend"]

_CPU = torch.device("cpu")
_BLOCK = 2048
"""Largest number of queries in a task: a task that has begun cannot be cancelled."""
_BYTES = 1 << 22
"""Largest size of the arrays of a task, in bytes, unless one query has more; all pass the scheduler."""
_TOO_HIGH = 8.0
"""Largest excess of an estimate of log Σ w over what was found with it, for the sums to be valid."""
_POLL = 0.1
"""Time between two polls of `cancelled`, in seconds."""
_HEALTHY = ("pending", "finished")
"""Statuses of a future whose shard view is, or will be, on a worker."""

_Task = tuple[int, Callable[..., Any], tuple[Any, ...]]
"""Number of a shard view, a function of its `_WorkerKeys`, and the function's further arguments."""


class DistributedBackend(Backend):
    """Sums over the keys of an index on the workers of a Dask cluster.

    Parameters
    ----------
    index : Index
        The index, which all workers must see under the same path. Its shards are read immediately, in as many
        shard views as there are workers.
    scheduler : str
        Address of the scheduler.
    device : str
        Device of the workers, "cpu", "cuda" or "cuda:N".
    most_exact_work : float
        As in `Backend`.

    Raises
    ------
    InvalidArgument
        Dask is not installed, or a worker has no such device.
    NotFound
        No scheduler answers at the address.
    DataLoss
        A worker does not see the index, or finds a file missing, cut short or altered.
    Unavailable
        There is no worker, or workers were lost repeatedly.
    """

    searches = False

    def __init__(
        self,
        index: Index,
        scheduler: str,
        device: str = "cpu",
        most_exact_work: float = DEFAULT_EXACT_WORK,
    ) -> None:
        super().__init__(index, _CPU, most_exact_work)
        self._device = device
        self._address = scheduler
        self._client = connect(scheduler)
        self._lock = Lock()
        try:
            with self._dask_errors():
                self._views = _split(index, len(addresses(self._client)))
            self._futures: list[Any] = [None] * len(self._views)
            _ = self.extent
        except BaseException:
            self.close()
            raise

    @property
    def compiled_hybrid(self) -> bool:
        """Whether the workers can sum in mode hybrid."""
        return self._device == "cpu"

    def prepare(self) -> None:
        """Compile the loops of hybrid, or the kernel of GPUs, on all workers."""
        self._map(_WorkerKeys.prepare)

    def close(self) -> None:
        """Close the connection, upon which the workers release the keys."""
        self._client.close()

    @cached_property
    def extent(self) -> Extent:
        """Numbers of keys, and the range of their targets, on all workers."""
        extents: list[Extent] = self._map(_WorkerKeys.extent)
        return reduce(Extent.merge, extents)

    def sums(self, queries: Queries | ColouredQueries, spec: SumSpec) -> PosteriorSums:
        """Return the sums merged over the shard views.

        Which groups hybrid opens depends on Σ w over all keys. Therefore each view first estimates its part
        of Σ w, and then sums with the total estimate.
        """
        views = len(self._views)
        if spec.mode == "topk":
            raise InvalidArgument.of("mode", "expected auto, exact or hybrid with a scheduler, got topk")
        if spec.mode == "exact" or views == 1:
            return self._merged(queries, [spec] * views)
        budget = None if spec.budget is None else spec.budget // views
        estimates = self._sums_of_each(
            queries, [replace(spec, mode="estimate", budget=budget, outputs=HEAVIEST, reference=None)] * views
        )
        log_z_of_each = torch.stack([each.log_max + each.moments[:, 0].log() for each in estimates])
        log_z = torch.logsumexp(log_z_of_each, dim=0).numpy()
        spec = replace(spec, budget=None if budget is None else budget - budget // 2)
        specs = []
        for estimate, view in zip(estimates, self._views, strict=True):
            key = estimate.top_key[:, 0].numpy()
            normalizer = NormalizerEstimate(log_z, np.where(key < 0, key, key - view.first_key))
            specs.append(replace(spec, normalizer=normalizer))
        sums = self._merged(queries, specs)
        found = (sums.log_max + sums.moments[:, 0].log()).numpy()
        again = torch.from_numpy(np.flatnonzero(log_z - found > _TOO_HIGH))
        if len(again):  # the estimate was far too high: each view opens the groups that count among its own
            sums = sums.put(again, self._merged(queries.rows(again), [spec.rows(again.numpy())] * views))
        evaluated = sum((each.keys_evaluated for each in estimates), sums.keys_evaluated)
        return replace(sums, keys_evaluated=evaluated)

    def covariances(self, queries: Queries, directions: Tensor, cancelled: Cancel) -> Covariances:
        """Return the covariances merged over the shard views."""
        blocks = self._blocks(len(queries))
        tasks: list[_Task] = [
            (view, _WorkerKeys.covariances, (queries.rows(rows), directions[rows]))
            for rows in blocks
            for view in range(len(self._views))
        ]
        found: Iterator[Covariances] = iter(self._run(tasks, cancelled))
        return Covariances.gather(
            [(rows, reduce(Covariances.merge, islice(found, len(self._views)))) for rows in blocks]
        )

    def _merged(self, queries: Queries | ColouredQueries, specs: Sequence[SumSpec]) -> PosteriorSums:
        return reduce(PosteriorSums.merge, self._sums_of_each(queries, specs))

    def _sums_of_each(
        self, queries: Queries | ColouredQueries, specs: Sequence[SumSpec]
    ) -> list[PosteriorSums]:
        """Return the sums over each shard view, given a specification for each."""
        blocks = self._blocks(len(queries))
        tasks: list[_Task] = [
            (view, _WorkerKeys.sums, (queries.rows(rows), spec.picklable().rows(rows.numpy())))
            for view, spec in enumerate(specs)
            for rows in blocks
        ]
        sums = self._run(tasks, specs[0].cancelled)
        return [
            PosteriorSums.join(sums[first : first + len(blocks)])
            for first in range(0, len(sums), len(blocks))
        ]

    def _blocks(self, queries: int) -> Sequence[Tensor]:
        """Return the numbers of the queries of each task, for so many."""
        # A query consists of a patch in float64, or of two arrays of its size.
        size = max(1, min(_BLOCK, _BYTES // (16 * self.index.patch_length)))
        return torch.split(torch.arange(queries), size)

    def _map(self, function: Callable[..., Any]) -> list[Any]:
        """Return the results of a function applied to the keys of each shard view."""
        return self._run([(view, function, ()) for view in range(len(self._views))], never)

    def _run(self, tasks: Sequence[_Task], cancelled: Cancel) -> list[Any]:
        """Return the results of tasks, each run on the worker that has its shard view."""
        with self._dask_errors():
            keys = self._load_views()
            client = self._client
            futures = [
                client.submit(function, keys[view], *arguments, pure=False)
                for view, function, arguments in tasks
            ]
            try:
                return self._results(futures, cancelled)
            finally:
                client.cancel(futures)

    def _results(self, futures: Sequence[Any], cancelled: Cancel) -> list[Any]:
        """Return the results once all are complete; Dask reruns the tasks of a lost worker on another."""
        wait, last_seen = distributed("scheduler").wait, time.monotonic()
        while True:
            raise_if_cancelled(cancelled)
            try:
                with self._client.as_current():
                    wait(futures, timeout=_POLL)
                return [future.result(timeout=PATIENCE) for future in futures]
            except TimeoutError:
                for future in futures:
                    if future.status == "error":
                        future.result()
                if self._client.nthreads():
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > PATIENCE:
                    raise Unavailable(f"scheduler: no worker is left at {self._address}") from None

    def _load_views(self) -> list[Any]:
        """Return futures of the keys of all views; those that failed or were lost are read again."""
        with self._lock:
            if self._client.status == "connecting":  # it retries for a while, then it closes
                raise Unavailable(f"scheduler: the connection to {self._address} was lost")
            if self._client.status != "running":
                try:
                    self._client = connect(self._address)
                except NotFound as error:
                    raise Unavailable(str(error)) from error
            lost = [
                i for i, future in enumerate(self._futures) if future is None or future.status not in _HEALTHY
            ]
            workers = addresses(self._client) if lost else []
            for i in lost:
                self._futures[i] = self._client.submit(
                    _WorkerKeys,
                    *self._views[i],
                    self._device,
                    workers=[workers[i % len(workers)]],
                    allow_other_workers=True,
                    pure=False,
                )
            return list(self._futures)

    @contextmanager
    def _dask_errors(self) -> Iterator[None]:
        """Raise Unavailable for the errors by which Dask reports lost workers or a lost scheduler."""
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


class _Part(NamedTuple):
    """What a worker holds."""

    view: ShardView
    """Some shards of the index."""
    images: NDArray[np.int64]
    """Numbers of the training images that are left out."""
    first_key: int
    """Number of the first remaining key."""


def _split(index: Index, most: int) -> list[_Part]:
    """Return the parts of an index, or of a view of it without some images, at most `most`."""
    if not isinstance(index, HeldOutView):
        return [_Part(view, np.zeros(0, np.int64), view.first_key) for view in split_shards(index, most)]
    parts = []
    for view in split_shards(index.whole, most):
        first, end = np.searchsorted(index.kept, [view.first_key, view.first_key + view.manifest.distinct])
        if first < end:
            parts.append(_Part(view, index.images_out, int(first)))
    return parts


class _WorkerKeys:
    """The keys of a part on a worker; unpickling reads them from the index."""

    def __init__(self, view: ShardView, images: NDArray[np.int64], first_key: int, device: str) -> None:
        view.verify()
        self._part, self._device = _Part(view, images, first_key), device
        index = leave_out(view, images, refits=False) if len(images) else view
        self._local = LocalBackend(index, as_device(device))
        self._first_key = first_key

    def __reduce__(self) -> tuple[type["_WorkerKeys"], tuple[Any, ...]]:
        return type(self), (*self._part, self._device)

    def __sizeof__(self) -> int:
        """Return the size of the keys, though they are mapped: Dask counts resident pages as memory."""
        return self._local.keys.nbytes

    def prepare(self) -> None:
        """Compile the loops of hybrid, or the kernel of a GPU."""
        self._local.prepare_sums()

    def extent(self) -> Extent:
        """Return the numbers of keys and the range of their targets."""
        return self._local.extent

    def sums(self, queries: Queries | ColouredQueries, spec: SumSpec) -> PosteriorSums:
        """Return the sums over these keys, numbered as in the whole index, in host memory."""
        index = self._local.index
        index.require_unchanged()
        sums = self._local.sums(queries.to(self._local.device), spec).to(_CPU)
        index.require_unchanged()
        key = sums.top_key
        return replace(sums, top_key=torch.where(key < 0, key, key + self._first_key))

    def covariances(self, queries: Queries, directions: Tensor) -> Covariances:
        """Return the covariances over these keys, in host memory."""
        index, device = self._local.index, self._local.device
        index.require_unchanged()
        found = self._local.covariances(queries.to(device), directions.to(device), never).to(_CPU)
        index.require_unchanged()
        return found
