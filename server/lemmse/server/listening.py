"""The sockets on which the server listens."""

import errno
import socket

import grpc

from lemmse.contract.address import Address
from lemmse.contract.errors import Unavailable
from lemmse.server.config import ServerConfig
from lemmse.server.tls import server_credentials

__all__ = ["listen"]

_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of addresses that this machine does not have, for example of IPv6 where it is switched off."""


def listen(server: grpc.aio.Server, config: ServerConfig) -> Address:
    """Listen on all addresses of the configured host, and return the host with the port.

    gRPC alone would leave out an address that is in use if the host has another one: then clients that use
    the first would find a different server.

    Raises
    ------
    Unavailable
        An address is in use, or none is an address of this machine.
    """
    host, port = wanted = config.address
    try:
        for address in _addresses(wanted):
            port = _add_port(server, f"{address}:{port}", config)
    except (OSError, RuntimeError):
        raise Unavailable(
            f"listen: cannot listen on {wanted}: it is in use or not an address of this machine"
        ) from None
    return Address(host, port)


def _add_port(server: grpc.aio.Server, address: str, config: ServerConfig) -> int:
    """Listen on an IP address and port with the credentials of the server, and return the port."""
    if config.tls_cert is None or config.tls_key is None:
        return server.add_insecure_port(address)
    credentials = server_credentials(config.tls_cert, config.tls_key, config.tls_client_ca)
    return server.add_secure_port(address, credentials)


def _addresses(wanted: Address) -> list[str]:
    """Return the IP addresses of a host that this machine has, as they are written in `Address`.

    Raises
    ------
    OSError
        The port of one is in use, or there is none.
    """
    found: list[str] = []
    missing: OSError | None = None
    resolved = socket.getaddrinfo(wanted.host.strip("[]"), wanted.port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in resolved:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            missing = error
        else:
            ip = str(address[0])
            found.append(f"[{ip}]" if family is socket.AF_INET6 else ip)
    if not found and missing is not None:
        raise missing
    return found
