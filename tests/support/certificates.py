"""Certificates of an authority that only the tests trust."""

from functools import cache

import grpc
import trustme

__all__ = ["ROOTS", "client_pems", "server_credentials"]

_AUTHORITY = trustme.CA()
ROOTS = _AUTHORITY.cert_pem.bytes()


@cache
def client_pems() -> dict[str, bytes]:
    """The certificate and the key of a client, as keywords of `connect`."""
    own = _AUTHORITY.issue_cert("client@example.org")
    return {"certificate": own.cert_chain_pems[0].bytes(), "key": own.private_key_pem.bytes()}


def server_credentials(*names: str, ask_for_certificate: bool = False) -> grpc.ServerCredentials:
    """The credentials of a server with these names."""
    own = _AUTHORITY.issue_cert(*names)
    pair = (own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())
    return grpc.ssl_server_credentials([pair], ROOTS if ask_for_certificate else None, ask_for_certificate)
