"""Connect to a server, or to index folders in this process."""

from os import PathLike, fspath

from lemmse.client.interface import Client
from lemmse.contract.address import Address
from lemmse.contract.errors import InvalidArgument

__all__ = ["SCHEME", "connect"]

SCHEME = "grpc://"


def connect(
    target: str | PathLike[str], *others: str | PathLike[str], scheduler: str | None = None
) -> Client:
    """Return a client for a server, or for index folders in this process.

    Parameters
    ----------
    target : str or path
        "grpc://HOST:PORT" for a server; the first call makes the connection. Anything else is the path of an
        index folder, which is loaded into this process immediately. This needs the estimator:
        `pip install 'lemmse[server]'`.
    *others : str or path
        Further index folders, with different names. Methods then need the name of the index, unless quality
        is "best" and all indexes are of the same training images: then the best one is chosen.
    scheduler : str, optional
        For index folders, the address of a Dask scheduler whose workers hold the keys and sum over them. All
        workers must see the folders under the same paths. This needs Dask: `pip install 'lemmse[dask]'`.

    Raises
    ------
    InvalidArgument
        The target is neither an address nor a path.
    LemmseError
        A folder is not an index or is damaged, or the scheduler has no workers.

    Examples
    --------
    >>> with connect("grpc://localhost:50051") as lemmse:
    ...     lemmse
    <RemoteClient localhost:50051>
    """
    try:
        names = [fspath(one) for one in (target, *others)]
    except TypeError as error:
        raise InvalidArgument.of("target", f"expected addresses or paths, got {error}") from error
    name = names[0]
    expected = f"expected {SCHEME}HOST:PORT or an index folder, got {name!r}"
    if not all(names):
        raise InvalidArgument.of("target", expected)
    if not any(one.startswith(SCHEME) for one in names):
        from lemmse.client.embedded import EmbeddedClient

        return EmbeddedClient(*names, scheduler=scheduler)
    if scheduler is not None:
        raise InvalidArgument.of("scheduler", "expected none with a server, which has its own")
    if others:
        raise InvalidArgument.of("target", f"expected one server, or index folders only, got {names}")
    address = Address.parse(name.removeprefix(SCHEME))
    if address is None:
        raise InvalidArgument.of("target", expected)
    from lemmse.client.remote import RemoteClient

    return RemoteClient(str(address))
