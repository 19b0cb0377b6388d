"""Parsing of specifications of operators, NAME:PARAMETER:…, and reading of the files that they name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument, LemmseError, NotFound
from lemmse.contract.lines import one_line
from lemmse.index.files import open_stack
from lemmse.index.physics._operators import Operator

__all__ = ["PhysicsKind", "PreInverseKind", "Read", "Spec", "is_file", "read_file"]

Read: TypeAlias = Callable[[str, str], NDArray[np.float64]]
"""A callable that is called with "kernel" or "mask" and a file name, and returns the content as float64."""


@dataclass(frozen=True, slots=True)
class Spec:
    """A specification to parse.

    Examples
    --------
    >>> Spec("physics", "blur:gaussian:1.5").words
    ['blur', 'gaussian', '1.5']
    """

    argument: str
    """Name of the argument, for error messages."""
    text: str
    """The specification, as the user wrote it."""

    @property
    def words(self) -> list[str]:
        """The parts between the colons."""
        return self.text.split(":")

    def error(self, expected: str) -> InvalidArgument:
        """Return the error for an invalid specification."""
        return InvalidArgument.of(self.argument, f"expected {expected}, got {self.text!r}")

    def number(self, word: str, name: str, *, above: float = 0, at_most: float = math.inf) -> float:
        """Return a parameter as a finite number that is > `above` and <= `at_most`."""
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and above < value <= at_most:
            return value
        bounds = f"> {above:g}" if at_most == math.inf else f"> {above:g} and <= {at_most:g}"
        raise self.error(f"{name} to be a number {bounds}")

    def count(self, word: str, name: str, *, least: int) -> int:
        """Return a parameter as a whole number >= `least`."""
        try:
            value = int(word)
        except ValueError:
            value = least - 1
        if value < least:
            raise self.error(f"{name} to be a whole number >= {least}")
        return value


class PhysicsKind(NamedTuple):
    """A kind of forward operator."""

    forms: tuple[str, ...]
    """Forms of its specification, for messages and help."""
    parse: Callable[[Spec, Read], Operator]
    """A callable that returns the operator for a specification."""


class PreInverseKind(NamedTuple):
    """A kind of pre-inverse."""

    forms: tuple[str, ...]
    """Forms of its specification, for messages and help."""
    physics: str | None
    """The kind of physics that it requires; None for any."""
    parse: Callable[[Spec, Any], Operator]
    """A callable that returns the operator for a specification, given the operator of the physics."""


def is_file(name: str) -> bool:
    """Return whether a parameter is the name of a file."""
    return name.lower().endswith((".npy", ".png"))


def read_file(path: str) -> NDArray[np.float64]:
    """Return the content of a .npy or .png file as finite float64 numbers, in the shape of the file.

    Raises
    ------
    NotFound
        There is no such file.
    InvalidArgument
        The file does not contain finite real numbers.
    """
    try:
        with open_stack(Path(path), stated=(0, 1)) as stack:
            array = stack.only()
    except NotFound as error:
        raise NotFound(f"physics: expected a file, got nothing at {path}") from error
    except LemmseError as error:
        reason = one_line(error, type(error).__name__)
        raise InvalidArgument.of(
            "physics", f"expected a readable .npy or .png, got {path} ({reason})"
        ) from error
    if not np.isfinite(array).all():
        raise InvalidArgument.of(
            "physics", f"expected finite real numbers in {path}, got {array.dtype} of shape {array.shape}"
        )
    numbers: NDArray[np.float64] = array.astype(np.float64)
    return numbers
