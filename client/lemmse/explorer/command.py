"""The command `lemmse explore`."""

import asyncio
import os
from typing import Any

import click

from lemmse.client.exits import report
from lemmse.client.extras import required
from lemmse.client.server_flags import server_flags
from lemmse.contract.address import Address

__all__ = ["explore"]


@click.command
@server_flags
@click.option(
    "--index", "folders", metavar="DIR", multiple=True, help="Index folder to use here; or several."
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8787",
    show_default=True,
    help="Address of the page; port 0 is a free one.",
)
@click.option("--browser/--no-browser", default=True, help="Open the page in the browser.  [default: open]")
def explore(
    server: str | None, secrets: dict[str, Any], folders: tuple[str, ...], listen: str, browser: bool
) -> None:
    """Show a page in the browser: drop images, turn knobs, see where each pixel comes from.

    The page needs no network. It has no login, so it listens on this machine only, unless --listen says
    otherwise. It ends with Ctrl-C.
    """
    if server is not None and folders:
        raise click.UsageError("expected either --server or --index, got both")
    if server is None and not folders and not os.environ.get("LEMMSE_SERVER"):
        raise click.UsageError("expected either --server or --index, got neither, and no LEMMSE_SERVER")
    address = Address.parse(listen)
    if address is None:
        raise click.UsageError(f"expected HOST:PORT for --listen, got {listen!r}")
    if not address.loopback:
        report(f"all who can reach {address} can use the page, and with it your indexes", "warning")
    with required("the explorer"):
        from lemmse.explorer.serving import serve
    targets = (server,) if server is not None else folders
    asyncio.run(serve(targets, folders, address, browser=browser, secrets=secrets))
