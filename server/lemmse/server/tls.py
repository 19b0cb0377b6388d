"""TLS: the server's certificate, and the authority that clients' certificates must come from."""

import ssl
from pathlib import Path

import grpc

from lemmse.contract.errors import InvalidArgument
from lemmse.server.changing import Changing

__all__ = ["server_credentials"]


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Return credentials whose files are read again, for new connections, after they have changed.

    While the files do not fit each other, as between the replacement of the certificate and that of its key,
    the earlier ones stay in use.

    Parameters
    ----------
    cert, key : Path
        Certificate chain and private key of the server, PEM.
    client_ca : Path or None
        Certificates of the authorities, PEM, one of which must have signed the certificate of each client;
        None to accept clients without a certificate.

    Raises
    ------
    InvalidArgument
        A file cannot be read, is not PEM, or certificate and key do not belong together.
    """
    paths = (cert, key) if client_ca is None else (cert, key, client_ca)
    files = Changing(paths, lambda: _read(cert, key, client_ca))
    current = files.get()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        latest = files.get()
        if latest is current:
            return None
        current = latest
        return latest

    # The stubs do not know that None means no change.
    return grpc.dynamic_ssl_server_credentials(current, fetch, client_ca is not None)  # type: ignore[arg-type]


def _read(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    certificate, private = _contents("tls-cert", cert), _contents("tls-key", key)
    authority = None if client_ca is None else _contents("tls-client-ca", client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password it would ask for one on the terminal.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgument.of(
            "tls-cert",
            f"expected a certificate in {cert} and its private key in {key}, PEM: {_reason(error)}",
        ) from error
    try:
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgument.of(
            "tls-client-ca", f"expected certificates in {client_ca}, PEM: {_reason(error)}"
        ) from error
    return grpc.ssl_server_certificate_configuration([(private, certificate)], authority)


def _contents(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument.of(option, f"cannot read {path}: {error.strerror}") from error


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return reason.lower().replace("_", " ") if reason else str(error)
