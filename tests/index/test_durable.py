"""Small files that readers see as they were, or as they are."""

import sys

import pytest

from lemmse.index.storage import durable
from tests.support.processes import run_process

OTHER = "import sys; from lemmse.index.storage.durable import *; from pathlib import Path; "


def test_two_processes_that_write_at_the_same_time(tmp_path, monkeypatch):
    path, sync = tmp_path / "file", durable.sync

    def sync_while_another_writes(staged):
        run_process([sys.executable, "-c", f"{OTHER}write_atomically(Path(sys.argv[1]), 'other')", path])
        assert path.read_text() == "other"
        sync(staged)

    monkeypatch.setattr(durable, "sync", sync_while_another_writes)
    durable.write_atomically(path, "own")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "own")]


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fail(staged):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_text("before")
    monkeypatch.setattr(durable, "sync", fail)
    with pytest.raises(OSError, match="No space left on device"):
        durable.write_atomically(path, "after")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "before")]
