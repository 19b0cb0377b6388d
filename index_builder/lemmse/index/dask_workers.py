"""The workers of a Dask cluster, which build an index or answer from it; Dask is loaded when it is needed.

They read the index's folder, so all of them must see it under one path.
"""

from typing import Any

from lemmse.contract.errors import InvalidArgument, NotFound, Unavailable

__all__ = ["PATIENCE", "addresses", "connect", "distributed"]

PATIENCE = 10.0
"""Seconds to wait for a scheduler or a worker to be there."""


def distributed(argument: str) -> Any:
    """The package dask.distributed, which an argument asks for.

    Raises
    ------
    InvalidArgument
        It is not installed.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise InvalidArgument.of(argument, "needs dask.distributed: pip install 'lemmse[dask]'") from error
    return distributed


def connect(address: str) -> Any:
    """A Dask client of the scheduler at an address; a context manager.

    Raises
    ------
    InvalidArgument
        Dask is not installed.
    NotFound
        No scheduler answers at the address.
    """
    dask = distributed("scheduler")
    try:
        dask.comm.resolve_address(address)  # of a client that was never connected Dask cannot let go
        return dask.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise NotFound(
            f"scheduler: expected the address of a Dask scheduler, got {address}: {error}"
        ) from error


def addresses(client: Any) -> list[str]:
    """Addresses of the workers of a Dask client's scheduler, of which there is one at least.

    Raises
    ------
    Unavailable
        None is there, nor comes soon.
    """
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise Unavailable(f"scheduler: no worker is there at {client.scheduler.address}") from error
    return sorted(client.nthreads())
