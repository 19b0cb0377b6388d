"""Command-line flags made from the table of options."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.options import OPTIONS, Count, ImageNames, Kind, Names, Number, OneOf, Option

__all__ = ["option_flags"]

F = TypeVar("F", bound=Callable[..., Any])


def option_flags(command: F) -> F:
    """Add a flag for each option of a reconstruction to a command, with its default and help."""
    for option in reversed(OPTIONS):
        command = click.option(
            f"--{option.name.replace('_', '-')}",
            option.name,
            type=_type(option.kind),
            callback=_callback(option),
            default=None if isinstance(option.kind, Names) else option.default,
            multiple=isinstance(option.kind, ImageNames),
            show_default=isinstance(option.kind, OneOf) and option.default is not None,
            metavar=option.metavar,
            help=option.help,
        )(command)
    return command


def _type(kind: Kind) -> Any:
    """Return the click type for the values of a kind."""
    match kind:
        case OneOf(choice):
            return click.Choice(list(choice))
        case Count():
            return click.IntRange(min=1)
        case Number(low, high, open_low):
            return click.FloatRange(low, high, min_open=open_low)
    return None


def _callback(option: Option) -> Callable[[click.Context, click.Parameter, Any], Any] | None:
    """Return the click callback that validates the values of an option; None if the click type suffices."""
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
        case ImageNames() as kind:

            def check(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
                try:
                    return kind.check(option.name, value)
                except InvalidArgument as error:
                    raise click.BadParameter(error.expected, ctx, param) from error

            return check
        case Number():
            return _not_nan
    return None


def _not_nan(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Raise BadParameter for NaN, which the range types of click accept."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("expected a number, got nan", ctx, param)
    return value
