"""The `lemmse` command, run in this process."""

from click.testing import CliRunner

from lemmse.client import cli


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    result = CliRunner().invoke(cli.main, list(map(str, arguments)))
    return result.exit_code, result.stdout, result.stderr
