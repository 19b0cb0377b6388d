"""The `lemmse` command, run in this process."""

import json
from typing import Any

from click.testing import CliRunner

from lemmse.client import cli


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    result = CliRunner().invoke(cli.main, list(map(str, arguments)))
    return result.exit_code, result.stdout, result.stderr


def apart(stderr: str) -> tuple[list[dict[str, Any]], str]:
    """What programs are told of progress on stderr, and the rest of it."""
    lines = stderr.splitlines(keepends=True)
    told = [line for line in lines if line.startswith("{")]
    return list(map(json.loads, told)), "".join(line for line in lines if line not in told)
