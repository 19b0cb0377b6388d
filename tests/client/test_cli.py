"""The command group: lazy, one line on errors, honest exit statuses."""

import json
import os
import signal
import sys
import time
from importlib.metadata import version
from subprocess import PIPE

import click
import numpy as np
import pytest
from click.testing import CliRunner

from lemmse.client import cli
from lemmse.client.errors import NotFound, Unavailable
from lemmse.client.exits import exit_status
from lemmse.client.serving import LEMMSE
from lemmse.contract import errors as engine
from tests.support.commands import apart, invoke
from tests.support.processes import run_process, start_process


def test_version_and_help():
    assert invoke("--version") == (0, f"main {version('lemmse')}\n", "")
    status, stdout, _ = invoke("--help")
    assert status == 0
    assert all(name in stdout for name in cli._COMMANDS)


@pytest.mark.parametrize("name", cli._COMMANDS)
def test_every_command_is_there_and_helps(name):
    status, stdout, _ = invoke(name, "--help")
    assert status == 0
    assert f"{name} [OPTIONS]" in stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command"),
        (["bogus"], "No such command 'bogus'"),
        (["--bogus"], "--bogus"),
        (["reconstruct"], "INPUT"),
        (["reconstruct", "a.png", "--out", "b.png"], "--index"),
        (["serve", "index", "--threads", "many"], "'many' is not a valid integer"),
        (["build", "x.npy", "--out", "y", "--boundary", "torus"], "'circular', 'reflect', 'valid'"),
    ],
)
def test_usage_errors_are_one_line(arguments, words):
    status, stdout, stderr = invoke(*arguments)
    assert (status, stdout) == (2, "")
    (line,) = stderr.splitlines()
    assert line.startswith("lemmse: error: ")
    assert words in line
    assert "--help')" in line


def raising(monkeypatch, error):
    """Invoke a command that raises an error."""

    @click.command
    def fails():
        raise error

    monkeypatch.setattr(click.Group, "get_command", lambda *_: fails)
    monkeypatch.setattr(cli._LazyGroup, "get_command", lambda *_: fails)
    return invoke("fails")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (engine.InvalidArgument.of("SOURCE", "expected images,\ngot none"), 2),
        (engine.DataLoss("the index is altered"), 2),
        (NotFound("nothing there"), 2),
        (Unavailable("nobody there"), 1),
        (PermissionError(13, "Permission denied"), 1),
        (click.ClickException("wrong"), 1),
    ],
)
def test_errors_are_one_line(monkeypatch, error, status):
    code, stdout, stderr = raising(monkeypatch, error)
    assert (code, stdout) == (status, "")
    (line,) = stderr.splitlines()
    assert line.startswith("lemmse: error: ")


def test_ctrl_c_is_quiet(monkeypatch):
    status, stdout, stderr = raising(monkeypatch, KeyboardInterrupt())
    assert (status, stdout, stderr.strip()) == (130, "", "")


def test_a_fault_of_the_program_is_not_hidden(monkeypatch):
    assert exit_status(ZeroDivisionError()) is None
    monkeypatch.setattr(cli._LazyGroup, "get_command", lambda *_: click.Command("x", callback=lambda: 1 / 0))
    assert isinstance(CliRunner().invoke(cli.main, ["x"]).exception, ZeroDivisionError)


WITHOUT_EXTRAS = """
import sys
sys.modules.update(dict.fromkeys(["torch", "faiss", "zarr", "matplotlib", "skimage", "grpc_reflection"]))
from lemmse.client.cli import main
main(prog_name="lemmse")
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "index"],
        ["build", "images", "--out", "index"],
        ["reconstruct", "a.png", "--out", "b.png", "--index", "c", "--sigma", "1"],
    ],
)
def test_a_missing_extra_is_one_line(arguments, tmp_path):
    (tmp_path / "a.png").touch()
    command = [sys.executable, "-c", WITHOUT_EXTRAS, *arguments]
    done = run_process(command, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("lemmse: error: ")
    assert line.endswith("pip install 'lemmse[server]'")


def test_the_base_install_can_say_what_there_is(tmp_path):
    command = [sys.executable, "-c", WITHOUT_EXTRAS, "--help"]
    done = run_process(command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "reconstruct" in done.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("lemmse ", list(cli._COMMANDS)),
        ("lemmse ex", ["explain", "explore"]),
        ("lemmse --v", ["--version"]),
        ("lemmse reconstruct --mode h", ["hybrid"]),
        ("lemmse nothing", []),
    ],
)
def test_the_shell_completes_without_extras(words, completed):
    asked = {
        "_LEMMSE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = run_process([sys.executable, "-c", WITHOUT_EXTRAS], env=os.environ | asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [f"plain,{word}" for word in completed]


def test_a_closed_pipe_is_quiet():
    command = [*LEMMSE, "--help"]
    with start_process(command, stdout=PIPE, stderr=PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_build_that_is_ended_leaves_no_index(tmp_path, number):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((60, 64, 64), np.float32))
    command = [*LEMMSE, "build", "x.npy", "--out", "index"]
    with start_process(command, cwd=tmp_path, stderr=PIPE) as process:
        while not (tmp_path / ".index.building" / "ingested.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (128 + number, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".index.building", "x.npy"]


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN], ids=["default", "ignored"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_given_back_and_what_is_ignored_stays_so(before, number):
    outside = signal.signal(number, before)
    try:
        with cli._signals_as_exceptions():
            within = signal.getsignal(number)
        after = signal.getsignal(number)
    finally:
        signal.signal(number, outside)
    assert (within is before) == (before is signal.SIG_IGN)
    assert after is before


@pytest.mark.slow
def test_a_name_that_the_terminal_lacks(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((2, 9, 8)))
    assert invoke("build", tmp_path / "x.npy", "--out", tmp_path / "näme", "--no-calibrate")[0] == 0
    command = [*LEMMSE, "inspect", str(tmp_path / "näme")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = run_process(command, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "n\\xe4me" in done.stdout.split()


def test_build_and_inspect_tell_what_an_index_expects(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((2, 9, 8)))
    problem = ("--physics", "blur:gaussian:1.0", "--pre-inverse", "wiener:0.01")
    built = invoke(
        "build", tmp_path / "x.npy", "--out", tmp_path / "i", "--patch-size", "3", *problem, "--json"
    )
    assert (built[0], apart(built[2])[1]) == (0, "")
    told = json.loads(built[1])
    status, stdout, stderr = invoke("inspect", tmp_path / "i", "--json")
    assert (status, json.loads(stdout), stderr) == (0, told | {"verified": False}, "")
    assert (told["physics"], told["pre_inverse"], told["boundary"]) == (problem[1], problem[3], "circular")
    assert (told["image_height"], told["image_width"]) == (9, 8)
    assert 1 < told["condition"] < 1e6
    status, stdout, stderr = invoke("inspect", tmp_path / "i")
    assert (status, stderr) == (0, "")
    assert f"{told['condition']:.4g}" in stdout.split()
    assert ["image", "size", "9x8"] in [line.split() for line in stdout.splitlines()]
