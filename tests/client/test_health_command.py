"""`lemmse health`."""

import trustme
from click.testing import CliRunner

from lemmse.client.health import health
from lemmse.contract.errors import NotFound, Unavailable
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.server.tokens import add_token


def test_a_server_its_indexes_and_one_that_is_gone(server):
    for service in ("", "index/tiny", "lemmse.v1.IndexService"):
        done = CliRunner().invoke(health, ["--server", server.address, "--service", service])
        assert (done.exit_code, done.stdout) == (0, f"{server.address}: SERVING\n")
    done = CliRunner().invoke(health, ["--server", server.address, "--service", "index/nope"])
    assert isinstance(done.exception, NotFound)
    assert "service: expected a service, or index/NAME, got 'index/nope'" in str(done.exception)
    done = CliRunner().invoke(health, ["--server", f"{server.address},127.0.0.1:9"])
    assert isinstance(done.exception, Unavailable)
    assert str(done.exception).startswith("127.0.0.1:9: ")


def test_a_server_must_be_given(monkeypatch):
    monkeypatch.setenv("LEMMSE_SERVER", "")
    done = CliRunner().invoke(health, [])
    assert done.exit_code == 2
    assert "expected --server, got none, and no LEMMSE_SERVER" in done.stderr


def test_with_tls_and_without_a_token(tiny_index, tmp_path):
    ca, leaf = (authority := trustme.CA()), authority.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    add_token(tmp_path / "tokens", "read")
    files = dict.fromkeys(("tls_cert", "tls_key"), tmp_path / "both.pem")
    server = Server(
        ServerConfig(
            indexes=(tiny_index,), listen="127.0.0.1:0", threads=1, tokens=tmp_path / "tokens", **files
        )
    )
    try:
        target = ["--server", f"grpcs://{server.address}", "--root-certificates"]
        good = CliRunner().invoke(health, [*target, str(tmp_path / "ca.pem")], catch_exceptions=False)
        assert good.exit_code == 0
        trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
        for untrusting in ([*target, str(tmp_path / "other.pem")], target[:-1]):
            done = CliRunner().invoke(health, untrusting)
            assert isinstance(done.exception, Unavailable)
            assert str(done.exception).endswith("name its own by root_certificates, or --root-certificates")
    finally:
        server.stop(0)


def test_a_certificate_for_another_name_and_a_server_without_tls(server, tiny_index, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    files = dict.fromkeys(("tls_cert", "tls_key"), tmp_path / "both.pem")
    named = Server(ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1, **files))
    try:
        for address, said in (
            (named.address, "its certificate is for another name or IP address"),
            (server.address, "without it, the scheme is grpc://"),
        ):
            target = ["--server", f"grpcs://{address}", "--root-certificates", str(tmp_path / "ca.pem")]
            done = CliRunner().invoke(health, target)
            assert isinstance(done.exception, Unavailable)
            assert said in str(done.exception)
    finally:
        named.stop(0)
