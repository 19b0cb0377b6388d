"""`lemmse token`."""

from click.testing import CliRunner

from lemmse.server.token_command import token
from lemmse.server.tokens import Tokens


def test_it_prints_a_token_once_and_keeps_its_hash(tmp_path):
    path = tmp_path / "tokens"
    printed = {}
    for role in ("read", "admin"):
        done = CliRunner().invoke(token, ["--role", role, "--file", str(path)])
        assert (done.exit_code, done.stderr) == (0, "")
        (printed[role],) = done.stdout.splitlines()
    for role, text in printed.items():
        assert Tokens(path).find(text).role == role
        assert text not in path.read_text()


def test_a_role_is_needed(tmp_path):
    path = tmp_path / "tokens"
    for arguments in (["--file", str(path)], ["--role", "owner", "--file", str(path)], ["--role", "read"]):
        assert CliRunner().invoke(token, arguments).exit_code == 2
    assert not path.exists()
