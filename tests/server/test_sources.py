"""Settings from the command line, the environment and a file."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.backend import DEFAULT_EXACT_WORK
from lemmse.server.command import serve
from lemmse.server.config import ServerConfig
from lemmse.server.settings import options
from lemmse.server.sources import as_toml


def effective(*arguments, **environment):
    """The settings that `lemmse serve` prints."""
    done = CliRunner(env=environment).invoke(
        serve, [*map(str, arguments), "--print-config"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return tomllib.loads(done.stdout)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "server.toml"
    path.write_text('indexes = ["a", "b"]\nqueue = 7\ngrace = 3\nexact-work = 1e9\n')
    return path


def test_the_command_line_then_the_environment_then_the_file(file):
    said = effective("--config", file, "--threads", 2, LEMMSE_SERVE_QUEUE="9", LEMMSE_SERVE_THREADS="3")
    assert (said["threads"], said["queue"], said["grace"]) == (2, 9, 3.0)
    assert (said["indexes"], said["exact-work"], said["device"]) == (["a", "b"], 1e9, "auto")
    assert "scheduler" not in said


def test_defaults_that_depend_on_others_are_printed_as_comments():
    printed = CliRunner().invoke(serve, ["a", "--print-config"]).stdout.splitlines()
    assert f"# exact-work = {DEFAULT_EXACT_WORK:g}".replace("e+", "e") in printed
    assert "# tokens =" in printed


def test_folders_and_the_file_from_the_environment(file):
    assert effective(LEMMSE_SERVE_CONFIG=str(file))["indexes"] == ["a", "b"]
    assert effective(LEMMSE_SERVE_CONFIG=str(file), LEMMSE_SERVE_INDEXES="c:d")["indexes"] == ["c", "d"]
    assert effective("e", LEMMSE_SERVE_CONFIG=str(file), LEMMSE_SERVE_INDEXES="c:d")["indexes"] == ["e"]


def test_an_empty_variable_is_not_given():
    assert effective("a", LEMMSE_SERVE_THREADS="")["threads"] == ServerConfig(indexes=(Path("a"),)).threads


def test_what_is_printed_can_be_read_again(file, tmp_path):
    done = CliRunner().invoke(serve, ["--config", str(file), "--print-config"])
    again = tmp_path / "again.toml"
    again.write_text(done.stdout)
    assert CliRunner().invoke(serve, ["--config", str(again), "--print-config"]).stdout == done.stdout


def test_every_option_is_printed_with_its_help():
    lines = as_toml(ServerConfig(indexes=(Path("a"),))).splitlines()
    for option in options(ServerConfig):
        (number,) = (i for i, line in enumerate(lines) if line == f"# {option.setting.help}")
        assert lines[number + 1].startswith((f"{option.key} = ", f"# {option.key} ="))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threads = 0", "{}: threads: expected a number from 1 to 4096, got 0"),
        ('queue = "8"', "{}: queue: expected an integer, got '8'"),
        ("queue = true", "{}: queue: expected an integer, got True"),
        ("queue = 1.5", "{}: queue: expected an integer, got 1.5"),
        ('grace = "8"', "{}: grace: expected a number, got '8'"),
        ("scheduler = 8", "{}: scheduler: expected a string, got 8"),
        ('indexes = "a"', "{}: indexes: expected an array of strings, got 'a'"),
        ("quue = 1", "{}: quue: no option has this name; did you mean queue?"),
        ("exact_work = 1", "{}: exact_work: no option has this name; did you mean exact-work?"),
        ("queue = ", "config: expected TOML in {}: Invalid value (at line 1, column 9)"),
    ],
)
def test_a_bad_file_is_said_with_its_name(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(f"{text}\n")
    done = CliRunner().invoke(serve, ["a", "--config", str(path)])
    assert isinstance(done.exception, InvalidArgument)
    assert str(done.exception) == message.format(path)


def test_a_file_that_is_not_there(tmp_path):
    done = CliRunner().invoke(serve, ["a", "--config", str(tmp_path / "none.toml")])
    assert str(done.exception) == f"config: cannot read {tmp_path / 'none.toml'}: No such file or directory"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("THREADS", "0", "LEMMSE_SERVE_THREADS: expected a number from 1 to 4096, got 0"),
        (
            "QUEU",
            "1",
            "LEMMSE_SERVE_QUEU: no option has this environment variable; did you mean LEMMSE_SERVE_QUEUE?",
        ),
    ],
)
def test_a_bad_variable_is_said_with_its_name(name, value, message):
    done = CliRunner(env={f"LEMMSE_SERVE_{name}": value}).invoke(serve, ["a"])
    assert str(done.exception) == message


def test_a_value_that_has_no_number_is_said_with_its_place():
    done = CliRunner(env={"LEMMSE_SERVE_QUEUE": "x"}).invoke(serve, ["a"])
    assert done.exit_code == 2
    assert "Invalid value for LEMMSE_SERVE_QUEUE: 'x' is not a valid integer." in done.stderr
    done = CliRunner().invoke(serve, ["a", "--queue", "x"])
    assert "Invalid value for '--queue': 'x' is not a valid integer." in done.stderr
