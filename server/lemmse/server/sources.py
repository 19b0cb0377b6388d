"""Where settings come from: the command line, environment variables and a TOML file.

The command line comes first, then the environment variable named by the field in capitals after a prefix,
then the file, then the default. click reads all of them; the values of the file are its default map.
"""

import os
import tomllib
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
import tomli_w
from click.core import ParameterSource

from lemmse.contract.errors import InvalidArgument
from lemmse.server.settings import Option, options

__all__ = ["as_toml", "given", "parameters"]

C = TypeVar("C")
_FILE = "lemmse.server.sources.file"
"""Key of the file's path in click's `Context.meta`."""


def parameters(cls: type, prefix: str) -> list[click.Parameter]:
    """Return the click parameters of a settings class, and `--config`.

    Parameters
    ----------
    cls : type
        The settings class.
    prefix : str
        What the names of its environment variables begin with.
    """

    def read(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
        _refuse_unknown_variables(cls, prefix)
        if path is not None:
            ctx.meta[_FILE] = path
            ctx.default_map = dict(_read(path, cls))

    config = click.Option(
        ["--config"],
        metavar="FILE",
        type=click.Path(path_type=Path),
        envvar=f"{prefix}CONFIG",
        is_eager=True,
        expose_value=False,
        callback=read,
        help="TOML file with further options, for example `queue = 8`.",
    )
    return [*(_parameter(option, f"{prefix}{option.name.upper()}") for option in options(cls)), config]


def given(ctx: click.Context, cls: type[C], values: dict[str, Any]) -> C:
    """Return the settings made of the values that click read.

    Parameters
    ----------
    ctx : Context
        The running command.
    cls : type
        The settings class.
    values : dict
        The values of all parameters, by name; None and () for those that are not given.

    Raises
    ------
    InvalidArgument
        A value is invalid; the message says which option, variable or key of the file it came from.
    """
    try:
        return cls(**{name: value for name, value in values.items() if value not in (None, ())})
    except InvalidArgument as error:
        places = (_place(ctx, option) for option in options(cls) if option.label == error.argument)
        place = next(places, None)
        if place is None:
            raise
        raise InvalidArgument.of(place, error.expected) from error


def as_toml(config: Any) -> str:
    """Return the settings as a TOML file, each below its help text.

    Those without a value are comments, with their default if they have one.

    Parameters
    ----------
    config : object
        An instance of a settings class.
    """
    return "\n".join(_entry(option, getattr(config, option.name)) for option in options(type(config)))


def _entry(option: Option, value: Any) -> str:
    if value is None:
        line = f"# {option.key} = {option.setting.default or ''}".rstrip() + "\n"
    else:
        plain = [str(path) for path in value] if option.is_argument else value
        line = tomli_w.dumps({option.key: str(plain) if isinstance(plain, Path) else plain})
    return f"# {option.setting.help}\n{line}"


class _Flag(click.Option):
    """The flag of an option; its error messages name the place that a wrong value came from."""

    def __init__(self, option: Option, *declarations: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self._setting = option

    def get_error_hint(self, ctx: click.Context | None) -> str:
        place = None if ctx is None else _place(ctx, self._setting)
        return super().get_error_hint(ctx) if place is None else place


def _parameter(option: Option, variable: str) -> click.Parameter:
    """Return the click parameter of an option; its value is None where none is given."""
    setting, kind, flag = option.setting, option.kind, f"--{option.key}"
    path = click.Path(path_type=Path)
    if option.is_argument:
        metavar = f"{setting.metavar}..."
        return click.Argument(
            [option.name], metavar=metavar, nargs=-1, required=True, envvar=variable, type=path
        )
    if kind is bool:
        declaration = f"{flag}/--no-{option.key}"
        return _Flag(option, declaration, envvar=variable, default=None, help=setting.help)
    if get_origin(kind) is Literal:
        kind = click.Choice(get_args(kind))
    default = f"{option.default:g}" if isinstance(option.default, float) else option.default
    shown = setting.default or default
    return _Flag(
        option,
        flag,
        envvar=variable,
        metavar=setting.metavar,
        type=path if kind is Path else kind,
        help=setting.help if shown is None else f"{setting.help}  [default: {shown}]",
    )


def _refuse_unknown_variables(cls: type, prefix: str) -> None:
    known = {f"{prefix}{option.name.upper()}" for option in options(cls)} | {f"{prefix}CONFIG"}
    for name in os.environ:
        if name.startswith(prefix) and name not in known:
            raise InvalidArgument.of(name, f"no option has this environment variable{_nearest(name, known)}")


def _read(path: Path, cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the settings of a file by the names of their fields."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgument.of("config", f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise InvalidArgument.of("config", f"expected TOML in {path}: {error}") from error
    known = {option.key: option for option in options(cls)}
    for key, value in table.items():
        if key not in known:
            raise InvalidArgument.of(f"{path}: {key}", f"no option has this name{_nearest(key, known)}")
        expected = _expected_type(known[key], value)
        if expected is not None:
            raise InvalidArgument.of(f"{path}: {key}", f"expected {expected}, got {value!r}")
        yield known[key].name, value


def _expected_type(option: Option, value: Any) -> str | None:
    """Return None if a value of a file has the type of its option, otherwise that type in words."""
    if option.is_argument:
        listed = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
        return None if listed else "an array of strings"
    if option.kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if option.kind is int:
        return None if type(value) is int else "an integer"
    if option.kind is float:
        return None if type(value) in (int, float) else "a number"
    return None if isinstance(value, str) else "a string"


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _place(ctx: click.Context, option: Option) -> str | None:
    """Return the variable, or the file and key, that an option's value came from; None for other sources."""
    source = ctx.get_parameter_source(option.name)
    if source is ParameterSource.ENVIRONMENT:
        return next(str(p.envvar) for p in ctx.command.params if p.name == option.name)
    if source is ParameterSource.DEFAULT_MAP:
        return f"{ctx.meta[_FILE]}: {option.key}"
    return None
