"""Who may call what: the check of bearer tokens."""

from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health

from lemmse.contract.errors import PermissionDenied, Unauthenticated
from lemmse.server.tokens import Tokens

__all__ = ["check_access"]

_ADMIN = "lemmse.v1.AdminService"
_FOR_ANYBODY = {health.SERVICE_NAME}
"""Services that need no token: a probe has none."""


def check_access(tokens: Tokens | None, service: str, metadata: Iterable[tuple[str, Any]]) -> str:
    """Check that a caller may call a service, and return the name of its token; empty if it needs none.

    AdminService needs a token of the role admin, and is refused where there are no tokens. Health checks need
    none.

    Parameters
    ----------
    tokens : Tokens or None
        The valid tokens; None to accept every caller.
    service : str
        Full name of the service.
    metadata : iterable of (str, str or bytes)
        Metadata of the call.

    Raises
    ------
    Unauthenticated
        The call has no valid token.
    PermissionDenied
        The role of its token does not permit the call.
    """
    if service in _FOR_ANYBODY:
        return ""
    if tokens is None:
        if service == _ADMIN:
            raise PermissionDenied("AdminService is off: the server was started without --tokens")
        return ""
    given = [value for key, value in metadata if key == "authorization"]
    if len(given) != 1:
        raise Unauthenticated("expected a token: metadata 'authorization: Bearer TOKEN'")
    scheme, _, token = str(given[0]).partition(" ")
    known = tokens.find(token) if scheme.lower() == "bearer" else None
    if known is None:
        raise Unauthenticated("the server does not accept this token")
    if service == _ADMIN and known.role != "admin":
        raise PermissionDenied(
            f"AdminService needs a token of the role admin, got one of the role {known.role}"
        )
    return known.name
