"""The pages of the documentation, whose blocks are run."""

import io
import re
import shlex
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from subprocess import PIPE
from typing import Any

from lemmse.client.serving import LEMMSE
from tests.support.commands import invoke
from tests.support.processes import start_process

ROOT = Path(__file__).parents[2]
ADDRESS = "127.0.0.1:50051"
"""Address in the pages; the port in the tests is a free one."""


class Page:
    """Runs the blocks `sh` and `python` of a page, in order, in the current folder."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "page"}
        self.printed = io.StringIO()
        self._address = ADDRESS
        self._servers = ExitStack()

    def run(self, path: Path) -> None:
        blocks = re.findall(r"^```(sh|python)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
        assert blocks
        for language, text in blocks:
            if language == "python":
                with redirect_stdout(self.printed):
                    exec(compile(text.replace(ADDRESS, self._address), path.name, "exec"), self.names)
            else:
                for line in text.splitlines():
                    self._command(line)

    def close(self) -> None:
        self._servers.close()

    def _command(self, line: str) -> None:
        program, *arguments = shlex.split(line.replace(ADDRESS, self._address))
        assert program == "lemmse"
        if arguments[-1] == "&":
            self._serve(arguments[:-1])
            return
        if arguments[0] == "build":
            arguments.append("--no-calibrate")  # which takes minutes, and has tests of its own
        may_fail = arguments[-2:] == ["||", "true"]
        status, _, stderr = invoke(*arguments[:-2] if may_fail else arguments)
        assert (status != 0) == may_fail, stderr

    def _serve(self, arguments: list[str]) -> None:
        free = [argument.replace(ADDRESS, "127.0.0.1:0") for argument in arguments]
        process = self._servers.enter_context(start_process([*LEMMSE, *free], stdout=PIPE))
        self._servers.callback(process.terminate)
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("listening on "), line
        self._address = line.removeprefix("listening on ").strip()
