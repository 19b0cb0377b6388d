"""A server with TLS, client certificates and tokens, and the client that has them."""

import pytest
import trustme

from lemmse.client import connect
from lemmse.contract.errors import NotFound, Unauthenticated, Unavailable
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.server.tokens import add_token


@pytest.fixture(scope="module")
def guarded(tiny_index, tmp_path_factory):
    """Arguments of `connect` that are right."""
    folder = tmp_path_factory.mktemp("guarded")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("localhost", "client"):
        leaf = ca.issue_cert(name)
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    token = add_token(folder / "tokens", "read")
    server = Server(
        ServerConfig(
            indexes=(tiny_index,),
            listen="127.0.0.1:0",
            threads=1,
            tokens=folder / "tokens",
            tls_cert=folder / "localhost.pem",
            tls_key=folder / "localhost.key",
            tls_client_ca=folder / "ca.pem",
        )
    )
    yield {
        "target": f"grpcs://localhost:{server.address.rpartition(':')[2]}",
        "token": token,
        "root_certificates": folder / "ca.pem",
        "certificate": folder / "client.pem",
        "key": folder / "client.key",
    }
    server.stop(0)


def test_a_client_that_has_all_of_it(guarded):
    with connect(**guarded) as lemmse:
        assert [index.name for index in lemmse.list_indexes()] == ["tiny"]
        with pytest.raises(NotFound, match=r"expected one of tiny, got 'nope' \(request [0-9a-z-]+\)"):
            lemmse.get_index("nope")


def test_a_client_with_another_token(guarded):
    wrong = guarded | {"token": guarded["token"] + "x"}
    said = r"does not accept this token \(request "
    with connect(**wrong) as lemmse, pytest.raises(Unauthenticated, match=said):
        lemmse.list_indexes()


@pytest.mark.usefixtures("impatient_clients")
def test_a_client_without_a_certificate(guarded):
    with connect(**guarded | {"certificate": None, "key": None}) as lemmse, pytest.raises(Unavailable):
        lemmse.list_indexes(timeout=5)
