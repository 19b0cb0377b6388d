"""The connections to servers, which are asked in turn."""

import json
import random
from itertools import cycle
from typing import Any, Generic, NamedTuple, TypeVar

import grpc

from lemmse.client.attempts import Attempts, Contact
from lemmse.client.targets import Servers
from lemmse.contract.address import Address
from lemmse.contract.limits import MESSAGE_BYTES
from lemmse.v1.admin_pb2_grpc import AdminServiceStub
from lemmse.v1.index_pb2_grpc import IndexServiceStub
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub

__all__ = ["Channels", "Server"]

R = TypeVar("R", bound=ReconstructionServiceStub)
I = TypeVar("I", bound=IndexServiceStub)  # noqa: E741

_OPTIONS = {
    "grpc.max_receive_message_length": MESSAGE_BYTES,
    # A connection that freezes during a call is noticed. lemmse's servers allow such pings. Others end a
    # connection with too many, so gRPC's limit stays: two, then one a minute, while nothing else is sent.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 10_000,
    # gRPC sends no keepalive ping while one of its own, which measure the bandwidth, is not answered.
    "grpc.http2.ping_timeout_ms": 10_000,
    # The time limit of an attempt to connect, and the pauses between attempts: a server that comes back is
    # found within about a second. gRPC's own pauses grow to two minutes.
    "grpc.min_reconnect_backoff_ms": 3000,
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.dns_min_time_between_resolutions_ms": 5000,
    # Otherwise a new client inherits such a pause from an old one of the same process.
    "grpc.use_local_subchannel_pool": 1,
}

_BALANCED = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
}


class Server(NamedTuple, Generic[R, I]):
    """One of the servers."""

    address: Address
    reconstruction: R
    indexes: I
    admin: Any
    """The stub of AdminService."""


class Channels(Generic[R, I]):
    """Channels to servers, of the synchronous or the asynchronous library.

    Parameters
    ----------
    library : module
        `grpc` or `grpc.aio`.
    servers : Servers
        The servers.
    """

    def __init__(self, library: Any, servers: Servers) -> None:
        several = len(servers.addresses) > 1
        self.channels = [_open(library, servers, address, several) for address in servers.addresses]
        """One for each address; the first call makes its connection."""
        stubs: list[Server[Any, Any]] = [
            Server(
                address,
                ReconstructionServiceStub(channel),
                IndexServiceStub(channel),
                AdminServiceStub(channel),
            )
            for address, channel in zip(servers.addresses, self.channels, strict=True)
        ]
        self._turns = cycle(random.sample(stubs, len(stubs)))
        self._contact = Contact(len(stubs))
        self._metadata = (("authorization", f"Bearer {servers.token}"),) if servers.token else ()

    def __len__(self) -> int:
        """Return the number of servers."""
        return len(self.channels)

    def next(self) -> Server[R, I]:
        """Return the server whose turn it is."""
        return next(self._turns)

    def attempts(self, timeout: float | None) -> Attempts:
        """Return the attempts of a new call with a timeout in seconds."""
        return Attempts(self._contact, timeout, self._metadata)


def _open(library: Any, servers: Servers, address: Address, several: bool) -> Any:
    options: dict[str, Any] = dict(_OPTIONS)
    if address.loopback:
        options["grpc.enable_http_proxy"] = 0
    if several or not (address.numeric or address.loopback):
        # A name may stand for several servers.
        options["grpc.service_config"] = json.dumps(_BALANCED)
    target, arguments = f"dns:///{address}", list(options.items())
    if not servers.encrypted:
        return library.insecure_channel(target, arguments)
    credentials = grpc.ssl_channel_credentials(servers.root_certificates, servers.key, servers.certificate)
    return library.secure_channel(target, credentials, arguments)
