"""Values of the flags --axes and --range, which say how files are read."""

import math

import click

__all__ = ["as_axes", "as_range"]


def as_range(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, float] | None:
    """Return the two numbers of LOW,HIGH, or None if none are given."""
    if value is None:
        return None
    try:
        low, high = map(float, value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected LOW,HIGH, such as 0,4095, got {value!r}", ctx, param) from error
    if not -math.inf < low < high < math.inf:
        raise click.BadParameter(f"expected finite LOW < HIGH, got {value}", ctx, param)
    return low, high


def as_axes(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return the letters of axes, or None if none are given."""
    if value is None:
        return None
    axes = value.upper()
    if not set(axes) <= set("TCZYXS") or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        raise click.BadParameter(
            f"expected Y, X and others of T, C, Z, S, once each, got {value}", ctx, param
        )
    return axes
