"""What is told on stderr while long work goes on."""

import json
import os
import pty
import sys
from itertools import pairwise
from subprocess import PIPE

import numpy as np
import pytest

from lemmse.client.progress import report_progress
from lemmse.client.serving import LEMMSE
from tests.support.commands import apart, invoke
from tests.support.processes import start_process

RNG = np.random.default_rng(3)
NAMES = ["stage", "done", "total", "seconds", "rate", "remaining_seconds"]


@pytest.fixture
def at(monkeypatch):
    """Sets the clock."""

    def set_to(seconds):
        monkeypatch.setattr("lemmse.client.progress.monotonic", lambda: 1000.0 + seconds)

    return set_to


def test_names_of_files_are_no_markup():
    """A stage may have the name of a file."""
    master, slave = pty.openpty()
    code = (
        "from lemmse.client.progress import report_progress\n"
        "with report_progress(as_json=False) as progress: progress('[/b].tif', 1, 2)"
    )
    with start_process([sys.executable, "-c", code], stderr=slave) as process:
        os.close(slave)
        shown = b""
        while part := _read(master):
            shown += part
    os.close(master)
    assert process.returncode == 0
    assert b"[/b].tif" in shown


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


def test_lines_for_programs(at, capsys):
    """Of a stage that goes on where it was: the rate is that of what was done now."""
    with report_progress(as_json=True) as progress:
        for seconds, done in ((0, 10), (0.5, 11), (1, 12), (1.9, 13), (4, 20), (4.1, 30)):
            at(seconds)
            progress("arrange", done, 30)
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    lines = [json.loads(line) for line in stderr.splitlines()]
    assert [list(line) for line in lines] == [NAMES] * 4
    assert [list(line.values()) for line in lines] == [
        ["arrange", 10, 30, 0, None, None],
        ["arrange", 12, 30, 1, 2, 9],
        ["arrange", 20, 30, 4, 2.5, 4],
        ["arrange", 30, 30, pytest.approx(4.1), pytest.approx(20 / 4.1), 0],
    ]


def test_each_stage_has_its_own_second(at, capsys):
    with report_progress(as_json=True) as progress:
        for seconds, *call in ((0, "a", 0, 9), (0.1, "b", 0, 9), (1, "a", 1, 9), (1, "b", 1, 9)):
            at(seconds)
            progress(*call)
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["stage"], line["done"], line["seconds"]) for line in found] == [
        ("a", 0, 0),
        ("b", 0, 0),
        ("a", 1, 1),
    ]


def test_nobody_is_told_where_there_is_no_terminal(capsys):
    with report_progress(as_json=False) as progress:
        for done in range(4):
            progress("count", done, 3)
    assert capsys.readouterr() == ("", "")


def test_build_tells_programs_of_every_stage(tmp_path):
    np.save(tmp_path / "x.npy", RNG.random((3, 6, 6)))
    status, stdout, stderr = invoke(
        "build", tmp_path / "x.npy", "--out", tmp_path / "index", "--patch-size", 3, "--json"
    )
    lines, rest = apart(stderr)
    assert (status, rest) == (0, "")
    assert json.loads(stdout)["images"] == 3
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    build = ["read images", "fit cells", "fit Gaussians", "assign patches", "write shards"]
    assert stages == [*build, "calibrate", "measure pictures"]
    for stage in stages:
        own = [line for line in lines if line["stage"] == stage]
        assert (own[0]["done"], own[-1]["done"], own[-1]["remaining_seconds"]) == (0, own[-1]["total"], 0)
        for line, later in pairwise(own):
            assert line["done"] < later["done"]
            assert line["seconds"] < later["seconds"]


def test_reconstruct_tells_programs_how_many_it_has_done(tiny_index, tmp_path):
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", RNG.random((6, 5), np.float32))
    given = ["--out", tmp_path / "out", "--sigma", 0.1, "--index", tiny_index, "--json"]
    status, stdout, stderr = invoke("reconstruct", tmp_path, *given)
    lines, rest = apart(stderr)
    assert (status, rest, len(stdout.splitlines())) == (0, "", 3)
    assert [(line["stage"], line["done"], line["total"]) for line in (lines[0], lines[-1])] == [
        ("reconstruct", 0, 3),
        ("reconstruct", 3, 3),
    ]


def on_a_terminal(*arguments):
    """Exit status, stdout, and what a terminal as stderr is given."""
    master, slave = pty.openpty()
    command = [*LEMMSE, *map(str, arguments)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    seen = []
    with start_process(command, stdout=PIPE, stderr=slave, env=environment) as process:
        os.close(slave)
        try:
            while some := os.read(master, 4096):
                seen.append(some)
        except OSError:  # how Linux says that nobody writes any more
            pass
        stdout = process.stdout.read()
    os.close(master)
    return process.returncode, stdout, b"".join(seen).decode()


@pytest.mark.slow
def test_a_person_sees_bars_with_their_rate(tmp_path):
    np.save(tmp_path / "x.npy", RNG.random((40, 16, 16)))
    out = tmp_path / "index"
    status, stdout, seen = on_a_terminal("build", tmp_path / "x.npy", "--out", out, "--no-calibrate")
    assert (status, "10,240" in stdout) == (0, True)
    for words in ("read images", "write shards", "40/40", "it/s"):
        assert words in seen
    status, stdout, seen = on_a_terminal("inspect", out, "--verify")
    assert (status, ["verified", "yes"] in [line.split() for line in stdout.splitlines()]) == (0, True)
    for words in ("compare checksums", "decode chunks", "MB/s", "0:00:00"):
        assert words in seen


@pytest.mark.slow
def test_a_program_on_a_terminal_is_told_in_lines(tiny_index):
    status, stdout, seen = on_a_terminal("inspect", tiny_index, "--verify", "--json")
    assert (status, json.loads(stdout)["verified"]) == (0, True)
    assert {json.loads(line)["stage"] for line in seen.splitlines()} == {"compare checksums", "decode chunks"}
