"""Do the parts of a build on Dask workers: processes of this machine, or those of any cluster.

Every worker reads and writes the folder that the build works in, so all of them must see it under one path.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss

from lemmse.contract.errors import InvalidArgument
from lemmse.index.building import Part, Run, do
from lemmse.index.dask_workers import addresses, connect, distributed

__all__ = ["on_local_workers", "on_scheduler"]


@contextmanager
def on_local_workers(count: int) -> Iterator[Run]:
    """Start so many processes, which share the cores, and end them after the block.

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
            memory_limit=0,  # --memory is what bounds it
            dashboard_address="127.0.0.1:0",  # None takes port 8787 of all interfaces
            env={name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        ) as cluster,
        dask.Client(cluster) as client,
    ):
        yield _run_on(client)


@contextmanager
def on_scheduler(address: str) -> Iterator[Run]:
    """Use the workers of a cluster.

    Raises
    ------
    InvalidArgument
        Dask is not installed.
    NotFound
        No scheduler answers at the address.
    Unavailable
        It has no worker.
    """
    with connect(address) as client:
        addresses(client)
        yield _run_on(client)


def _run_on(client: Any) -> Run:
    def run(folder: Path, parts: Sequence[Part], done: Callable[[], None]) -> None:
        futures = client.map(do, [folder] * len(parts), parts, pure=False)
        try:
            for future in distributed("scheduler").as_completed(futures, loop=client.loop):
                future.result()
                done()
        finally:
            client.cancel(futures)

    return run
