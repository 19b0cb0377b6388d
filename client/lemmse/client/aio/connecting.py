"""Connect to servers, or to index folders in this process, from asyncio."""

from lemmse.client.aio.interface import AsyncClient
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
) -> AsyncClient:
    """Return an asyncio client for servers, or for index folders in this process. Call it in a coroutine.

    Parameters
    ----------
    target, *others, scheduler, token, root_certificates, certificate, key
        As in `lemmse.client.connect`. Index folders are loaded in a thread.

    Raises
    ------
    InvalidArgument
        An argument is not of its form. (The client raises the errors of index folders when it is entered or
        first used.)

    Examples
    --------
    >>> import asyncio
    >>> async def main():
    ...     async with connect("grpc://localhost:50051") as lemmse:
    ...         print(lemmse)
    >>> asyncio.run(main())
    <AsyncRemoteClient localhost:50051>
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
        from lemmse.client.aio.remote import AsyncRemoteClient

        return AsyncRemoteClient(found)
    from lemmse.client.aio.embedded import AsyncEmbeddedClient

    return AsyncEmbeddedClient(*found, scheduler=scheduler)
