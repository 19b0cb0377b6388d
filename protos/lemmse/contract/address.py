"""Network addresses, HOST:PORT."""

import re
from ipaddress import ip_address
from typing import NamedTuple

__all__ = ["Address"]

_FORM = re.compile(r"(?P<host>[^:/\s]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
_LAST_PORT = 65535
"""gRPC takes a larger port modulo 65536."""


class Address(NamedTuple):
    """A host and a port."""

    host: str
    """Host name or IP address; an IPv6 address is in brackets."""
    port: int
    """0 to 65535."""

    @classmethod
    def parse(cls, text: str) -> "Address | None":
        """Return the address in a string, or None if the string is not of the form HOST:PORT.

        Examples
        --------
        >>> Address.parse("[::1]:50051")
        Address(host='[::1]', port=50051)
        >>> Address.parse("localhost") is None
        True
        """
        match = _FORM.fullmatch(text)
        if match is None or int(match["port"]) > _LAST_PORT:
            return None
        return cls(match["host"], int(match["port"]))

    @property
    def numeric(self) -> bool:
        """Whether the host is an IP address, not a name."""
        try:
            ip_address(self.host.strip("[]"))
        except ValueError:
            return False
        return True

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine, reached without a network.

        Examples
        --------
        >>> [Address(host, 50051).loopback for host in ("localhost", "127.0.0.2", "[::1]", "10.0.0.1")]
        [True, True, True, False]
        """
        if self.numeric:
            return ip_address(self.host.strip("[]")).is_loopback
        return self.host.lower() == "localhost"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
