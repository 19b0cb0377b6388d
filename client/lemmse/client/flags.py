"""Command-line flags from the table of options."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from lemmse.contract.options import OPTIONS, Count, Kind, Names, Number, OneOf, Option

__all__ = ["option_flags"]

F = TypeVar("F", bound=Callable[..., Any])


def option_flags(command: F) -> F:
    """Give a command a flag for each option of a reconstruction, with its default and help."""
    for option in reversed(OPTIONS):
        command = click.option(
            f"--{option.name.replace('_', '-')}",
            option.name,
            type=_type(option.kind),
            callback=_callback(option),
            default=None if isinstance(option.kind, Names) else option.default,
            show_default=isinstance(option.kind, OneOf) and option.default is not None,
            metavar=option.metavar,
            help=option.help,
        )(command)
    return command


def _type(kind: Kind) -> Any:
    """Return what click parses a value as."""
    match kind:
        case OneOf(choice):
            return click.Choice(list(choice))
        case Count():
            return click.IntRange(min=1)
        case Number(low, high, open_low):
            return click.FloatRange(low, high, min_open=open_low)
    return None


def _callback(option: Option) -> Callable[[click.Context, click.Parameter, Any], Any] | None:
    """Return what click calls with a parsed value, where its type does not do."""
    match option.kind:
        case Names(choice):
            names = ",".join(choice)

            def split(ctx: click.Context, param: click.Parameter, value: str | None) -> frozenset[str]:
                given = frozenset(value.split(",")) if value else frozenset()
                if unknown := given - frozenset(choice):
                    raise click.BadParameter(
                        f"expected names out of {names}, got {min(unknown)!r}", ctx, param
                    )
                return given

            return split
        case Number():
            return _not_nan
    return None


def _not_nan(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Raise BadParameter for NaN, which no range excludes."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("expected a number, got nan", ctx, param)
    return value
