"""Connections to the workers of a Dask cluster, which build an index or hold its keys.

All workers must see the index folder under the same path. Dask is imported on demand.
"""

from typing import Any

from lemmse.contract.errors import InvalidArgument, NotFound, Unavailable

__all__ = ["PATIENCE", "addresses", "connect", "distributed"]

PATIENCE = 10.0
"""Time to wait for a scheduler or a worker, in seconds."""


def distributed(argument: str) -> Any:
    """Return the package dask.distributed, which an argument needs.

    Raises
    ------
    InvalidArgument
        Dask is not installed.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise InvalidArgument.of(argument, "needs dask.distributed: pip install 'lemmse[dask]'") from error
    return distributed


def connect(address: str) -> Any:
    """Return a Dask client for the scheduler at an address; the client is a context manager.

    Raises
    ------
    InvalidArgument
        Dask is not installed.
    NotFound
        No scheduler answers at the address.
    """
    dask = distributed("scheduler")
    try:
        dask.comm.resolve_address(address)  # first, since Dask cannot close a client that never connected
        return dask.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise NotFound(
            f"scheduler: expected the address of a Dask scheduler, got {address}: {error}"
        ) from error


def addresses(client: Any) -> list[str]:
    """Return the addresses of the workers of a scheduler, at least one, given a Dask client.

    Raises
    ------
    Unavailable
        No worker connects within `PATIENCE`.
    """
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise Unavailable(f"scheduler: no worker is there at {client.scheduler.address}") from error
    return sorted(client.nthreads())
