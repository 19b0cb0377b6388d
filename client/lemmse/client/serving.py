"""A server in a child process, on a free port of this machine."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lemmse.contract.errors import Unavailable

__all__ = ["LEMMSE", "serving"]

LEMMSE = (sys.executable, "-m", "lemmse.client.cli")
"""Command line that runs `lemmse` with this Python interpreter."""
_LISTENING = "listening on "
_PATIENCE = 15.0
"""Time to wait for the server to end after SIGTERM, in seconds."""


@contextmanager
def serving(index: Path, log: Path) -> Iterator[str]:
    """Run `lemmse serve` for the duration of the `with` block, and yield its address, HOST:PORT.

    Parameters
    ----------
    index : Path
        Folder of the index.
    log : Path
        File for the server's stderr.

    Raises
    ------
    Unavailable
        The server ended before it accepted connections.
    """
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*LEMMSE, "serve", str(index), "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith(_LISTENING):
            raise Unavailable(f"the server ended before it listened; see {log}")
        yield line.removeprefix(_LISTENING).strip()
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
