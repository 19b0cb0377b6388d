"""Limits of connections: their age, idle time, pings and number, and how many files the process may open."""

import logging
import resource

from lemmse.contract.limits import MESSAGE_BYTES
from lemmse.server.config import ServerConfig

__all__ = ["channel_options", "raise_open_files"]

_LOG = logging.getLogger(__name__)

_MS = 1000
_DAY_MS = 86_400 * _MS
_STREAMS = 256
"""Calls at the same time on one connection; further ones wait in the client."""
_PENDING = 100_000
"""Number of calls that have come and are not accepted yet at which gRPC ends some of them."""
_PINGS_APART_MS = 4 * _MS
"""gRPC ends a connection whose client pings more often than this, by default than every 5 minutes."""
_OWN_PING_MS = 60 * _MS
"""The server looks so often whether a quiet client is still there."""
_OWN_PING_ANSWER_MS = 20 * _MS
_HANDSHAKE_MS = 20 * _MS
_FEW_FILES = 1024
_OTHER_FILES = 100
"""Files that the process needs besides its connections, roughly; a mapped file needs none."""
_MANY_FILES = 1 << 20


def channel_options(config: ServerConfig) -> tuple[tuple[str, int], ...]:
    """Return the options of gRPC's server.

    Beyond its age a connection takes no new calls, so that clients connect again, and find new servers behind
    a load balancer. The calls that run go on: other limits end them.

    Parameters
    ----------
    config : ServerConfig
        The settings.
    """
    return (
        # Otherwise a second server on the same port starts without an error and receives half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_concurrent_streams", _STREAMS),
        # Otherwise gRPC lowers that number below what it has told the client, and refuses calls of a burst.
        ("grpc.http.overload_protection", 0),
        # Of calls that come faster than they are accepted, gRPC ends some at random as CANCELLED. Here they
        # are accepted, and those that are too many are told so.
        ("grpc.server.max_pending_requests", _PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _PENDING),
        ("grpc.max_connection_idle_ms", int(config.connection_idle * _MS)),
        ("grpc.max_connection_age_ms", int(config.connection_age * _MS)),
        ("grpc.max_connection_age_grace_ms", _DAY_MS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_allowed_incoming_connections", _connections()),
        ("grpc.http2.min_ping_interval_without_data_ms", _PINGS_APART_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", _OWN_PING_MS),
        ("grpc.keepalive_timeout_ms", _OWN_PING_ANSWER_MS),
    )


def raise_open_files() -> None:
    """Raise the limit of open files, of which each connection needs one, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            _LOG.warning("cannot raise the limit of open files from %d to %d: %s", soft, wanted, error)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < _FEW_FILES:
        _LOG.warning(
            "this process may open %d files, and so takes %d connections; raise ulimit -n or LimitNOFILE=",
            limit,
            _connections(),
        )


def _connections() -> int:
    """Return the number of connections for which the process may open files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return _MANY_FILES
    return max(limit - _OTHER_FILES, limit // 2)
