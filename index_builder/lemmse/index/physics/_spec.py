"""Specifications of operators: a name and its parameters between colons."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.physics._operators import Operator

__all__ = ["PhysicsKind", "PreInverseKind", "Read", "Spec", "is_file"]

Read: TypeAlias = Callable[[str, str], NDArray[np.float64]]
"""Called with what is read ("kernel" or "mask") and the name of its file."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A specification that is being parsed.

    Examples
    --------
    >>> Spec("physics", "blur:gaussian:1.5").words
    ['blur', 'gaussian', '1.5']
    """

    argument: str
    """Name of the argument that it came in, for messages."""
    text: str
    """As the user gave it."""

    @property
    def words(self) -> list[str]:
        """What stands between the colons."""
        return self.text.split(":")

    def error(self, expected: str) -> InvalidArgument:
        """Make the error for a specification that cannot be meant."""
        return InvalidArgument.of(self.argument, f"expected {expected}, got {self.text!r}")

    def number(self, word: str, name: str, *, above: float = 0, at_most: float = math.inf) -> float:
        """Parse a parameter: a finite number, > above and <= at_most."""
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and above < value <= at_most:
            return value
        bounds = f"> {above:g}" if at_most == math.inf else f"> {above:g} and <= {at_most:g}"
        raise self.error(f"{name} to be a number {bounds}")

    def count(self, word: str, name: str, *, least: int) -> int:
        """Parse a parameter: a whole number >= least."""
        try:
            value = int(word)
        except ValueError:
            value = least - 1
        if value < least:
            raise self.error(f"{name} to be a whole number >= {least}")
        return value


class PhysicsKind(NamedTuple):
    """One kind of forward operator."""

    forms: tuple[str, ...]
    """How it is written, for messages and help."""
    parse: Callable[[Spec, Read], Operator]
    """Makes the operator."""


class PreInverseKind(NamedTuple):
    """One kind of pre-inverse."""

    forms: tuple[str, ...]
    """How it is written, for messages and help."""
    physics: str | None
    """The kind of physics that it is for; None for any."""
    parse: Callable[[Spec, Any], Operator]
    """Makes the operator, given that of the physics."""


def is_file(name: str) -> bool:
    """Tell whether a parameter names a file."""
    return name.lower().endswith((".npy", ".png"))
