"""From a target to a client."""

import re
from os import PathLike, fspath

from lemmse.client.interface import Client
from lemmse.contract.errors import InvalidArgument

__all__ = ["SCHEME", "connect"]

SCHEME = "grpc://"

_ADDRESS = re.compile(r"([^:/\s]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
_LAST_PORT = 65535


def connect(
    target: str | PathLike[str], *others: str | PathLike[str], scheduler: str | None = None
) -> Client:
    """Return a client of a server, or of an index folder in this process.

    Parameters
    ----------
    target : str or path
        "grpc://HOST:PORT" for a server, which is first spoken to when the first method is called. Anything
        else is the path of an index folder, which is loaded into this process at once; that needs the
        estimator: `pip install 'lemmse[server]'`.
    *others : str or path
        More index folders, of other names. Methods name the index that they mean; of indexes of the same
        training images, quality "best" finds the best by itself.
    scheduler : str, optional
        For index folders, the address of a Dask scheduler: its workers hold the patches and sum over them,
        this process does the rest. Each must see the folders under the same paths. It needs Dask:
        `pip install 'lemmse[dask]'`.

    Raises
    ------
    InvalidArgument
        The target is neither an address nor a path.
    LemmseError
        The folder is not a sound index, or there are no workers to hold it.

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
    address = name.removeprefix(SCHEME)
    match = _ADDRESS.fullmatch(address)
    # gRPC would take a larger port modulo 65536.
    if match is None or int(match["port"]) > _LAST_PORT:
        raise InvalidArgument.of("target", expected)
    from lemmse.client.remote import RemoteClient

    return RemoteClient(address)
