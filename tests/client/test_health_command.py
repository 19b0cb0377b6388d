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
    target = ["--server", f"grpcs://{server.address}", "--root-certificates", str(tmp_path / "ca.pem")]
    assert CliRunner().invoke(health, target, catch_exceptions=False).exit_code == 0
    server.stop(0)
