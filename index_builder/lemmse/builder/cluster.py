"""Run the tasks of a build on Dask workers, either local processes or those of a cluster.

Every worker reads from and writes to the folder of the build, and must see it under the same path.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss

from lemmse.contract.errors import InvalidArgument
from lemmse.index.building import Runner, Task, run_task
from lemmse.index.dask_workers import addresses, connect, distributed

__all__ = ["on_local_workers", "on_scheduler"]


@contextmanager
def on_local_workers(count: int) -> Iterator[Runner]:
    """Yield a runner on local worker processes, which share the cores and end with the `with` block.

    Raises
    ------
    InvalidArgument
        Dask is not installed, or the number is not positive.
    """
    if count < 1:
        raise InvalidArgument.of("workers", f"expected a whole number >= 1, got {count}")
    dask = distributed("workers")
    threads = max(1, faiss.omp_get_max_threads() // count)
    with (
        dask.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=0,  # --memory is the limit
            dashboard_address="127.0.0.1:0",  # None listens on port 8787 of all interfaces
            env={name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        ) as cluster,
        dask.Client(cluster) as client,
    ):
        yield _run_on(client)


@contextmanager
def on_scheduler(address: str) -> Iterator[Runner]:
    """Yield a runner on the workers of a cluster.

    Raises
    ------
    InvalidArgument
        Dask is not installed.
    NotFound
        No scheduler answers at the address.
    Unavailable
        The cluster has no worker.
    """
    with connect(address) as client:
        addresses(client)
        yield _run_on(client)


def _run_on(client: Any) -> Runner:
    def run(folder: Path, tasks: Sequence[Task], done: Callable[[], None]) -> None:
        futures = client.map(run_task, [folder] * len(tasks), tasks, pure=False)
        try:
            for future in distributed("scheduler").as_completed(futures, loop=client.loop):
                future.result()
                done()
        finally:
            client.cancel(futures)

    return run
