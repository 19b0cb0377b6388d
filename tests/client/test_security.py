"""Encrypted connections, certificates and tokens, from the client's side."""

import numpy as np
import pytest
import trustme

from lemmse.client.errors import InvalidArgument, PermissionDenied, Unauthenticated, Unavailable
from lemmse.client.targets import Servers
from tests.support.certificates import ROOTS, client_pems, server_credentials
from tests.support.commands import invoke
from tests.support.standin import standing_in


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    for name in ("LEMMSE_SERVER", "LEMMSE_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def impatient(monkeypatch):
    """Have clients give up soon where no connection can be made."""
    monkeypatch.setattr("lemmse.client.attempts._UNKNOWN", 0.3)


def require_token(metadata):
    match metadata.get("authorization"):
        case None:
            return Unauthenticated("expected a token")
        case "Bearer right":
            return None
        case "Bearer reader":
            return PermissionDenied("this takes the role admin")
    return Unauthenticated("the token is not known here")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("as_file", [False, True])
def test_tls(connect_any, tmp_path, host, as_file):
    (tmp_path / "roots.pem").write_bytes(ROOTS)
    roots = tmp_path / "roots.pem" if as_file else ROOTS
    with standing_in(credentials=server_credentials("localhost", "127.0.0.1")) as server:
        address = f"{host}:{server.port}"
        with connect_any(f"grpcs://{address}", root_certificates=roots, token="right") as client:
            assert client.list_indexes(timeout=20) == []
        assert server.calls[0]["authorization"] == "Bearer right"


def test_a_server_that_is_not_trusted(connect_any, impatient):
    with standing_in(credentials=server_credentials("localhost", "127.0.0.1")) as server:
        address = f"127.0.0.1:{server.port}"
        for target, options in (
            (f"grpcs://{address}", {}),
            (f"grpcs://{address}", {"root_certificates": trustme.CA().cert_pem.bytes()}),
            (f"grpc://{address}", {}),
        ):
            with connect_any(target, **options) as client, pytest.raises(Unavailable, match=address):
                client.list_indexes()
        assert server.calls == []


def test_a_server_with_another_name(connect_any, impatient):
    with (
        standing_in(credentials=server_credentials("elsewhere.example.org")) as server,
        connect_any(f"grpcs://localhost:{server.port}", root_certificates=ROOTS) as client,
        pytest.raises(Unavailable),
    ):
        client.list_indexes()


def test_the_client_has_a_certificate_too(connect_any, impatient):
    credentials = server_credentials("localhost", ask_for_certificate=True)
    with standing_in(credentials=credentials) as server:
        target = f"grpcs://localhost:{server.port}"
        with connect_any(target, root_certificates=ROOTS, **client_pems()) as client:
            assert client.list_indexes(timeout=20) == []
        with connect_any(target, root_certificates=ROOTS) as client, pytest.raises(Unavailable):
            client.list_indexes()


@pytest.mark.parametrize(
    ("token", "error", "words"),
    [
        (None, Unauthenticated, "expected a token"),
        ("wrong", Unauthenticated, "the token is not known here"),
        ("reader", PermissionDenied, "this takes the role admin"),
    ],
)
def test_a_token_that_does_not_do(connect_any, token, error, words):
    with (
        standing_in(require_token) as server,
        connect_any(f"grpc://127.0.0.1:{server.port}", token=token) as client,
    ):
        with pytest.raises(error, match=words):
            client.list_indexes()
        assert len(server.calls) == 1


def test_the_environment_names_server_and_token(connect_any, monkeypatch):
    monkeypatch.setenv("LEMMSE_TOKEN", "right")
    with standing_in(require_token) as server:
        for target in (f"127.0.0.1:{server.port}", f"grpc://127.0.0.1:{server.port}"):
            monkeypatch.setenv("LEMMSE_SERVER", target)
            with connect_any() as client:
                assert client.list_indexes() == []
        with connect_any(token="wrong") as client, pytest.raises(Unauthenticated):
            client.list_indexes()


@pytest.mark.parametrize(
    "target", ["grpc://gpu1:50051", "dns:///gpu1:50051", "grpc://localhost:1,10.0.0.1:2"]
)
def test_a_token_is_not_sent_where_others_can_read_it(connect_any, monkeypatch, target):
    with pytest.raises(InvalidArgument, match=r"^token: expected TLS: without it, others") as caught:
        connect_any(target, token="secret")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("LEMMSE_TOKEN", "secret")
    with pytest.raises(InvalidArgument, match=r"^LEMMSE_TOKEN: expected TLS: "):
        connect_any(target)


PEM = b"-----BEGIN CERTIFICATE-----"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": None}, "target: expected a server or an index folder; LEMMSE_SERVER is not set"),
        ({"token": "a b"}, "token: expected a string of visible ASCII characters, got something else"),
        ({"token": b"a"}, "token: expected a string of visible ASCII characters, got something else"),
        (
            {"root_certificates": b"x"},
            "root_certificates: expected PEM, with a line '-----BEGIN …', got bytes",
        ),
        (
            {"root_certificates": "none.pem"},
            "root_certificates: expected PEM bytes or a file, got none.pem: No ",
        ),
        ({"root_certificates": 3}, "root_certificates: expected PEM bytes or a file, got 3: "),
        ({"key": PEM}, "certificate: expected a certificate and its key, got one of them"),
        ({"certificate": PEM}, "certificate: expected a certificate and its key, got one of them"),
        (
            {"target": "grpc://a:1", "root_certificates": PEM},
            "root_certificates: expected none without TLS (grpcs://), got one for grpc://a:1",
        ),
        ({"target": "folder", "token": "a"}, "token: expected none with an index folder, got one for folder"),
        ({"target": "folder", "key": PEM}, "key: expected none with an index folder, got one for folder"),
        ({"target": "grpcs://a"}, "target: expected grpc://HOST:PORT, grpcs://HOST:PORT or an index folder"),
        (
            {"target": "grpc://a:1,"},
            "target: expected grpc://HOST:PORT, grpcs://HOST:PORT or an index folder",
        ),
    ],
)
def test_arguments_of_another_form(connect_any, arguments, message):
    with pytest.raises(InvalidArgument) as caught:
        connect_any(**{"target": "grpcs://a:1"} | arguments)
    assert str(caught.value).startswith(message)


def test_secrets_are_not_shown():
    servers = Servers.checked("grpcs://a:1", token="secret", root_certificates=None, **client_pems())
    assert "secret" not in repr(servers)
    assert "PRIVATE" not in repr(servers)


@pytest.fixture
def command(tmp_path):
    """`lemmse reconstruct` with some more flags."""
    np.save(tmp_path / "y.npy", np.zeros((4, 4), np.float32))
    arguments = ("reconstruct", tmp_path / "y.npy", "--out", tmp_path / "x.npy", "--sigma", 0.1)
    return lambda *flags: invoke(*arguments, *flags)


def test_the_command_sends_token_and_certificate(command, tmp_path):
    pems = {"root_certificates": ROOTS, **client_pems()}
    for name, pem in pems.items():
        (tmp_path / name).write_bytes(pem)
    (tmp_path / "token").write_text("reader\n")
    flags = [f"--{name.replace('_', '-')}={tmp_path / name}" for name in pems]
    credentials = server_credentials("localhost", ask_for_certificate=True)
    with standing_in(require_token, credentials=credentials) as server:
        status, _, stderr = command(
            f"--server=grpcs://localhost:{server.port}",
            f"--token-file={tmp_path / 'token'}",
            "--quality=best",
            *flags,
        )
    assert server.calls[0]["authorization"] == "Bearer reader"
    assert status == 1
    assert stderr.startswith("lemmse: error: this takes the role admin (request ")


def test_the_command_takes_the_server_from_the_environment(command, server, monkeypatch, tmp_path):
    status, _, stderr = command()
    assert (status, "LEMMSE_SERVER" in stderr) == (2, True)
    monkeypatch.setenv("LEMMSE_SERVER", server.address)
    assert command() == (0, f"{tmp_path / 'x.npy'}\n", "")


def test_an_index_goes_before_the_server_of_the_environment(command, monkeypatch, tiny_index, tmp_path):
    monkeypatch.setenv("LEMMSE_SERVER", "127.0.0.1:1")
    assert command("--index", tiny_index) == (0, f"{tmp_path / 'x.npy'}\n", "")


def test_a_token_file_that_is_empty(command, tmp_path):
    (tmp_path / "token").write_text("\n")
    status, _, stderr = command("--server=localhost:1", f"--token-file={tmp_path / 'token'}")
    assert status == 2
    assert "expected a token in" in stderr
