"""The web server of the explorer's page, in the process and the event loop of its client."""

import socket
import webbrowser
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click
import uvicorn
from fastapi import FastAPI
from nicegui import ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from lemmse.client import aio
from lemmse.contract.address import Address
from lemmse.contract.errors import FailedPrecondition, Unavailable
from lemmse.explorer.local import LocalIndexes
from lemmse.explorer.page import Page

__all__ = ["serve"]

_PATIENCE = 10.0
"""Seconds to wait for the list of indexes."""


async def serve(
    targets: Sequence[str], folders: Sequence[str], listen: Address, *, browser: bool, secrets: dict[str, Any]
) -> None:
    """Show the page until the process is told to end.

    Parameters
    ----------
    targets : sequence of str
        Arguments of `connect`; empty for the default server.
    folders : sequence of str
        Those of them that are index folders.
    listen : Address
        Where to listen; port 0 is a free one.
    browser : bool
        Whether to open the page in the user's browser.
    secrets : dict
        Keywords of `connect`.
    """
    with _listening(listen) as sock:
        url = f"http://{listen.host}:{sock.getsockname()[1]}"
        async with aio.connect(*targets, **secrets) as client:
            if not await client.list_indexes(timeout=_PATIENCE):
                raise FailedPrecondition("expected a server with indexes, got one without; load one first")
            local = LocalIndexes(folders)

            async def page() -> None:
                Page(client, local, await client.list_indexes(timeout=_PATIENCE), targets)

            config = uvicorn.Config(_app(page, listen), log_level="warning", timeout_graceful_shutdown=1)
            click.echo(f"explorer  {url}")
            if browser:
                webbrowser.open(url)
            await uvicorn.Server(config).serve(sockets=[sock])


def _app(page: Callable[[], Awaitable[None]], listen: Address) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    ui.page("/")(page)
    ui.run_with(app, title="lemmse explorer", dark=None, language="en-US", show_welcome_message=False)
    if listen.loopback:
        # A page from elsewhere whose name is made to stand for this machine does not get an answer.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", listen.host])
    return app


def _listening(address: Address) -> socket.socket:
    """Return a socket that accepts connections, so that the address can be told before the first one."""
    host = address.host.strip("[]")
    try:
        return socket.create_server(
            (host, address.port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise Unavailable(f"cannot listen on {address}: {error.strerror or error}; choose another") from error
