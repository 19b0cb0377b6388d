"""Connect to servers, or to index folders in this process."""

from lemmse.client.interface import Client
from lemmse.client.targets import Pem, Servers, Target, resolve

__all__ = ["connect"]


def connect(
    target: Target | None = None,
    *others: Target,
    scheduler: str | None = None,
    token: str | None = None,
    root_certificates: Pem | None = None,
    certificate: Pem | None = None,
    key: Pem | None = None,
) -> Client:
    """Return a client for servers, or for index folders in this process.

    Parameters
    ----------
    target : str or path
        "grpc://HOST:PORT" for a server, "grpcs://HOST:PORT" for one with TLS, by default the environment
        variable LEMMSE_SERVER; the first call makes the connection. "grpc://A:1,B:2" are servers that answer
        alike and are asked in turn, as are those for which one name stands ("dns:///NAME:PORT" is the same
        as "grpc://NAME:PORT"). Anything else is the path of an index folder, which is loaded into this
        process immediately. This needs the estimator: `pip install 'lemmse[server]'`.
    *others : str or path
        Further index folders, with different names. Methods then need the name of the index, unless quality
        is "best" and all indexes are of the same inverse problem: then the best one for each image is chosen.
    scheduler : str, optional
        For index folders, the address of a Dask scheduler whose workers hold the keys and sum over them. All
        workers must see the folders under the same paths. This needs Dask: `pip install 'lemmse[dask]'`.
    token : str, optional
        Bearer token for servers that ask for one, by default the environment variable LEMMSE_TOKEN. It is
        sent only with TLS, or to this machine.
    root_certificates : bytes or path, optional
        For grpcs, certificates to trust instead of the usual ones, in PEM format.
    certificate, key : bytes or path, optional
        For grpcs, the certificate and private key of this client, in PEM format, for servers that ask for
        them.

    Raises
    ------
    InvalidArgument
        An argument is not of its form.
    LemmseError
        A folder is not an index or is damaged, or the scheduler has no workers.

    Examples
    --------
    >>> with connect("grpc://localhost:50051") as lemmse:
    ...     lemmse
    <RemoteClient localhost:50051>
    """
    found = resolve(
        target,
        others,
        scheduler=scheduler,
        token=token,
        root_certificates=root_certificates,
        certificate=certificate,
        key=key,
    )
    if isinstance(found, Servers):
        from lemmse.client.remote import RemoteClient

        return RemoteClient(found)
    from lemmse.client.embedded import EmbeddedClient

    return EmbeddedClient(*found, scheduler=scheduler)
