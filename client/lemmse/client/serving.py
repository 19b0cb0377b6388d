"""A server in a process of its own, on a free port of this machine, for as long as it is asked."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lemmse.contract.errors import Unavailable

__all__ = ["LEMMSE", "serving"]

LEMMSE = (sys.executable, "-m", "lemmse.client.cli")
"""The command lemmse, as this Python would run it."""
_LISTENING = "listening on "
_PATIENCE = 15.0
"""Seconds that the server gets to end by itself."""


@contextmanager
def serving(index: Path, log: Path) -> Iterator[str]:
    """Run `lemmse serve`; gives its address, HOST:PORT, and ends it whatever happens.

    Parameters
    ----------
    index : Path
        Folder of the index.
    log : Path
        File for what the server says on stderr.

    Raises
    ------
    Unavailable
        The server ended before it listened.
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
            raise Unavailable(f"the server ended before it listened; {log} says why")
        yield line.removeprefix(_LISTENING).strip()
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
