"""`lemmse token`."""

from click.testing import CliRunner

from lemmse.server.token_command import token
from lemmse.server.tokens import Tokens
from tests.support.disks import files_of_at_most


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


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "tokens"
    assert CliRunner().invoke(token, ["--role", "read", "--file", str(path)]).exit_code == 0
    before = path.read_bytes()
    with files_of_at_most(len(before) + 10):
        done = CliRunner().invoke(token, ["--role", "admin", "--file", str(path)])
    assert (type(done.exception), done.exception.filename) == (OSError, str(path))
    assert path.read_bytes() == before


def test_a_role_is_needed(tmp_path):
    path = tmp_path / "tokens"
    for arguments in (["--file", str(path)], ["--role", "owner", "--file", str(path)], ["--role", "read"]):
        assert CliRunner().invoke(token, arguments).exit_code == 2
    assert not path.exists()
