"""What a client connects to: servers, or index folders in this process. Nothing here connects."""

import os
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Self

from lemmse.contract.address import Address
from lemmse.contract.errors import FailedPrecondition, InvalidArgument

__all__ = ["Pem", "Servers", "Target", "as_server", "resolve"]

Target = str | PathLike[str]
"""Servers, or an index folder, as `connect` takes them."""

Pem = bytes | str | PathLike[str]
"""A certificate or a key in PEM format: its bytes, or the path of a file."""

_ENCRYPTED = {"grpc://": False, "grpcs://": True, "dns:///": False}
"""Whether connections are encrypted by TLS, by the scheme with which servers begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Servers that answer alike, and what to show them; `checked` validates its arguments."""

    addresses: tuple[Address, ...]
    """At least one."""
    encrypted: bool
    """Whether connections are encrypted by TLS."""
    root_certificates: bytes | None
    """The certificates to trust, in PEM format; None for the usual ones."""
    certificate: bytes | None
    """The certificate of the client, in PEM format, or None."""
    key: bytes | None = field(repr=False)
    """Its private key."""
    token: str = field(repr=False)
    """The bearer token to send with each call; empty for none."""

    @classmethod
    def checked(cls, target: str, *, token: str | None, **pems: Pem | None) -> Self:
        """Return the validated servers.

        Parameters
        ----------
        target : str
            A scheme and HOST:PORT, or several of them separated by commas.
        token : str, optional
            Bearer token; by default the environment variable LEMMSE_TOKEN.
        **pems : bytes or path, optional
            root_certificates, certificate and key, in PEM format.

        Raises
        ------
        InvalidArgument
            An argument is not of its form, or the token could be read by others on its way.
        """
        scheme = _scheme(target)
        encrypted = _ENCRYPTED[scheme]
        addresses = []
        for text in target.removeprefix(scheme).split(","):
            address = Address.parse(text)
            if address is None:
                raise _not_a_target(target)
            addresses.append(address)
        for name, value in pems.items():
            if value is not None and not encrypted:
                raise InvalidArgument.of(name, f"expected none without TLS (grpcs://), got one for {target}")
        if (pems["certificate"] is None) != (pems["key"] is None):
            raise InvalidArgument.of("certificate", "expected a certificate and its key, got one of them")
        return cls(
            addresses=tuple(addresses),
            encrypted=encrypted,
            token=_checked_token(token, None if encrypted else addresses),
            **{name: None if value is None else _read_pem(name, value) for name, value in pems.items()},
        )

    def __str__(self) -> str:
        return ",".join(map(str, self.addresses))

    def require_one(self) -> None:
        """Raise FailedPrecondition if there are several: each has indexes of its own."""
        if len(self.addresses) > 1:
            raise FailedPrecondition(f"admin: expected a client of one server, got {self}; ask each of them")


def as_server(server: str) -> str:
    """Return HOST:PORT with a scheme; what has one stays as it is.

    Examples
    --------
    >>> as_server("gpu1:50051"), as_server("grpcs://gpu1:50051")
    ('grpc://gpu1:50051', 'grpcs://gpu1:50051')
    """
    return server if _scheme(server) else f"grpc://{server}"


def resolve(
    target: Target | None,
    others: tuple[Target, ...],
    *,
    scheduler: str | None,
    token: str | None,
    **pems: Pem | None,
) -> Servers | list[str]:
    """Return the servers, or the index folders, that the arguments of `connect` stand for.

    Raises
    ------
    InvalidArgument
        An argument is not of its form, or does not go with the others.
    """
    try:
        names = [fspath(one) for one in (_default() if target is None else target, *others)]
    except TypeError as error:
        raise InvalidArgument.of("target", f"expected addresses or paths, got {error}") from error
    for name in names:
        if not isinstance(name, str) or not name:
            raise _not_a_target(name)
        if Address.parse(name) is not None and not Path(name).exists():
            raise InvalidArgument.of("target", f"expected {as_server(name)} for a server, got {name!r}")
    if not any(map(_scheme, names)):
        for name, value in {"token": token, **pems}.items():
            if value is not None:
                raise InvalidArgument.of(name, f"expected none with an index folder, got one for {names[0]}")
        return names
    if scheduler is not None:
        raise InvalidArgument.of("scheduler", "expected none with a server, which has its own")
    if len(names) > 1:
        raise InvalidArgument.of("target", f"expected one server, or index folders only, got {names}")
    return Servers.checked(names[0], token=token, **pems)


def _scheme(target: str) -> str:
    """Return the scheme with which servers begin; empty for an index folder."""
    return next((scheme for scheme in _ENCRYPTED if target.startswith(scheme)), "")


def _not_a_target(got: object) -> InvalidArgument:
    return InvalidArgument.of(
        "target", f"expected grpc://HOST:PORT, grpcs://HOST:PORT or an index folder, got {got!r}"
    )


def _default() -> str:
    server = os.environ.get("LEMMSE_SERVER", "")
    if not server:
        raise InvalidArgument.of("target", "expected a server or an index folder; LEMMSE_SERVER is not set")
    return as_server(server)


def _read_pem(name: str, value: Pem) -> bytes:
    if isinstance(value, bytes):
        pem, origin = value, "bytes without one"
    else:
        origin = str(value)
        try:
            pem = Path(value).read_bytes()
        except (OSError, TypeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidArgument.of(name, f"expected PEM bytes or a file, got {origin}: {reason}") from error
    if b"-----BEGIN " not in pem:
        raise InvalidArgument.of(name, f"expected PEM, with a line '-----BEGIN …', got {origin}")
    return pem


def _checked_token(token: str | None, exposed: list[Address] | None) -> str:
    """Return the token to send, if all addresses to which it is sent in plain text are on this machine."""
    origin = "LEMMSE_TOKEN" if token is None else "token"
    text = os.environ.get("LEMMSE_TOKEN", "") if token is None else token
    if not isinstance(text, str) or not all("!" <= character <= "~" for character in text):
        raise InvalidArgument.of(origin, "expected a string of visible ASCII characters, got something else")
    for address in exposed or ():
        if text and not address.loopback:
            raise InvalidArgument.of(
                origin, f"expected TLS: without it, others can read what is sent to {address}; use grpcs://"
            )
    return text
