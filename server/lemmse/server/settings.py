"""Settings that are declared once and given by file, environment or command line.

A settings class is a frozen dataclass whose fields are annotated with a `Setting`. From the name, type,
default and `Setting` of a field follow its flag, its environment variable, its key in a TOML file, its help
text and its validation. `lemmse.server.sources` reads them.
"""

import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from lemmse.contract.errors import InvalidArgument

__all__ = ["Option", "Setting", "above", "at_least", "between", "options", "validate"]

Check = Callable[[Any], str | None]
"""Returns None for a valid value, otherwise what was expected, in words."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field of a settings class says about itself, besides its name, type and default."""

    help: str
    """Meaning, in one or two sentences."""
    check: Check | None = None
    """Check of values that are not None."""
    metavar: str | None = None
    """Form of the value, for the help text; of an argument, its name."""
    default: str | None = None
    """The default in words, if it depends on the machine or on other settings."""


def between(low: float, high: float, what: str = "a number") -> Check:
    """Return a check that a value is in [low, high].

    Examples
    --------
    >>> between(1, 8)(9)
    'a number from 1 to 8'
    """
    return lambda value: None if low <= value <= high else f"{what} from {low} to {high}"


def at_least(low: float, what: str = "a number") -> Check:
    """Return a check that a value is at least `low`.

    Examples
    --------
    >>> at_least(0)(-1)
    'a number >= 0'
    """
    return lambda value: None if value >= low else f"{what} >= {low}"


def above(low: float, what: str = "a number") -> Check:
    """Return a check that a value is greater than `low`.

    Examples
    --------
    >>> above(0)(0)
    'a number > 0'
    """
    return lambda value: None if value > low else f"{what} > {low}"


class Option(NamedTuple):
    """A field of a settings class."""

    name: str
    """Name of the field."""
    kind: Any
    """bool, int, float, str, Path, a Literal of strings, or tuple[Path, ...] for arguments without a flag."""
    default: Any
    """Its default; None if it has none, or computes it."""
    setting: Setting

    @property
    def is_argument(self) -> bool:
        """Whether the command takes its values without a flag."""
        return get_origin(self.kind) is tuple

    @property
    def key(self) -> str:
        """Name in a file and, after two dashes, on the command line."""
        return self.name.replace("_", "-")

    @property
    def label(self) -> str:
        """Name in messages."""
        return self.setting.metavar or self.name if self.is_argument else self.key


def options(cls: type) -> tuple[Option, ...]:
    """Return the options of a settings class, in the order of its fields."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(_option(field.name, hints[field.name], field.default) for field in fields(cls))


def _option(name: str, hint: Any, default: Any) -> Option:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"{name}: expected a type annotated with a Setting, got {hint}")
    kind, setting = get_args(hint)
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not types.NoneType)
    return Option(name, kind, None if default is MISSING else default, setting)


def validate(config: Any) -> None:
    """Check each setting of an instance of a settings class by itself.

    Raises
    ------
    InvalidArgument
        A value is invalid.
    """
    for option in options(type(config)):
        value, expected = getattr(config, option.name), None
        if value is None:
            continue
        if get_origin(option.kind) is Literal and value not in get_args(option.kind):
            expected = "one of " + ", ".join(get_args(option.kind))
        elif option.setting.check is not None:
            expected = option.setting.check(value)
        if expected is not None:
            shown = repr(str(value)) if isinstance(value, str | Path) else "none" if value == () else value
            raise InvalidArgument.of(option.label, f"expected {expected}, got {shown}")
