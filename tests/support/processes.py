"""Child processes of tests: each is killed, with the processes it started, when its time is over.

Only this module starts processes; tests/test_imports.py checks that.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

TIMEOUT = 120.0
"""Seconds that a child has unless its test says otherwise."""


@contextmanager
def start_process(
    command: Iterable[object], timeout: float = TIMEOUT, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Yield a running child in a process group of its own, and wait for its end.

    It is killed when the block raises and after `timeout` seconds, which raises TimeoutExpired. `options` are
    those of `Popen`.
    """
    process = subprocess.Popen(list(map(str, command)), text=True, start_new_session=True, **options)
    late = threading.Event()

    def kill() -> None:
        with suppress(OSError):  # the group has ended
            os.killpg(process.pid, signal.SIGKILL)

    def expire() -> None:
        late.set()
        kill()

    watchdog = threading.Timer(timeout, expire)
    watchdog.daemon = True
    watchdog.start()
    try:
        with process:
            try:
                yield process
            except BaseException:
                kill()
                raise
    finally:
        watchdog.cancel()
        if late.is_set():
            raise subprocess.TimeoutExpired(process.args, timeout)


def run_process(
    command: Iterable[object], timeout: float = TIMEOUT, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Return the exit status, stdout and stderr of a child that runs to its end."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    with start_process(command, timeout, **options) as process:
        stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
