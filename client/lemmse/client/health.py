"""The command `lemmse health`, for probes of containers and scripts."""

import os
from typing import Any

import click
import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from lemmse.client.channels import Channels
from lemmse.client.rpc_errors import rpc_errors
from lemmse.client.server_flags import server_flags
from lemmse.client.targets import Servers, as_server
from lemmse.contract.errors import Unavailable

__all__ = ["health"]


@click.command
@server_flags
@click.option(
    "--service",
    default="",
    metavar="NAME",
    help="Ask for a service, or for an index, as index/photos.  [default: the whole server]",
)
@click.option("--timeout", type=click.FloatRange(min=0), default=5.0, show_default=True, help="In seconds.")
def health(server: str | None, secrets: dict[str, Any], service: str, timeout: float) -> None:
    """Ask servers whether they can answer.

    Exit status: 0 if all of them can, 1 if one cannot, 2 if it has no service of that name. Needs no token.
    """
    target = server or os.environ.get("LEMMSE_SERVER")
    if not target:
        raise click.UsageError("expected --server, got none, and no LEMMSE_SERVER")
    servers = Servers.checked(as_server(target), **secrets)
    for address, channel in zip(servers.addresses, Channels(grpc, servers).channels, strict=True):
        with rpc_errors(address, ""), channel:
            reply = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=timeout)
        if reply.status != HealthCheckResponse.SERVING:
            raise Unavailable(f"{address}: {HealthCheckResponse.ServingStatus.Name(reply.status)}")
        click.echo(f"{address}: SERVING")
