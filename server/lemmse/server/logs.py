"""The log: lines on stderr, as text or JSON, that never stop the program.

Lines are queued, and a thread writes them. Where stderr takes no more, as a pipe that nobody reads, the queue
fills, and further lines are dropped and counted.
"""

import json
import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from queue import Full, Queue
from threading import Thread
from typing import Any, Literal

from lemmse.server.metrics import LOG_LINES_DROPPED
from lemmse.server.request_id import REQUEST_ID

__all__ = ["Format", "Log"]

Format = Literal["text", "json"]

_QUEUED = 4_000
"""Lines that may wait, about 1 MB."""
_STDERR = 2


class Log(logging.Handler):
    """A handler for the root logger that writes to stderr from a thread of its own.

    Parameters
    ----------
    form : {"text", "json"}
        Form of the lines.
    """

    def __init__(self, form: Format) -> None:
        super().__init__()
        self.setFormatter(_Json() if form == "json" else _Text())
        self._lines: Queue[bytes] = Queue(_QUEUED)
        Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of a record, or drop it."""
        try:
            line = self.format(record) + "\n"
            self._lines.put_nowait(line.encode(errors="backslashreplace"))
        except Full:
            LOG_LINES_DROPPED.inc()
        except Exception:
            self.handleError(record)

    def drain(self, seconds: float) -> None:
        """Wait until the queued lines are written, at most for some seconds."""
        deadline = time.monotonic() + seconds
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks and (left := deadline - time.monotonic()) > 0:
                self._lines.all_tasks_done.wait(left)

    def _write(self) -> None:
        # Not through sys.stderr: its lock, held in a write that never returns, would keep the process from
        # ending.
        while True:
            rest = self._lines.get()
            with suppress(OSError):  # nobody reads the pipe any more
                while rest:
                    rest = rest[os.write(_STDERR, rest) :]
            self._lines.task_done()


class _Text(logging.Formatter):
    """Lines `TIME LEVEL MESSAGE request=ID`, with a traceback below if there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = record.message.replace("\n", "\\n")
        request_id = REQUEST_ID.get()
        return super().formatMessage(record) + (f" request={request_id}" if request_id else "")


class _Json(logging.Formatter):
    """One object per line; the facts of a call are members of their own."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)
