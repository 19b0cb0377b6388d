"""The options of a request, checked; each error names the argument, what was expected and what came."""

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.sum_spec import DEFAULT_K, DEFAULT_NPROBE

__all__ = [
    "AGGREGATES",
    "DEFAULT_ACCURACY_DB",
    "ERRORS",
    "ESTIMATORS",
    "MAPS",
    "MODES",
    "QUALITIES",
    "Options",
    "as_count",
    "as_options",
    "as_pixel",
]

MODES = ("auto", "exact", "topk", "hybrid")
ESTIMATORS = ("le-mmse", "e-mmse", "mmse")
MAPS = ("variance", "ess", "log_density", "error")
ERRORS = ("estimated", "certified")
AGGREGATES = ("centre", "overlap")
QUALITIES = ("paper", "best")

DEFAULT_ACCURACY_DB = 50.0
"""Default agreement of `hybrid` with the sum over all keys, PSNR in dB."""
ACCURACY_MAX = 120.0
"""Agreement in dB beyond which float32 results cannot differ."""
BANDWIDTH_MAX = 1e6
"""Above, every weight is the same."""


@dataclass(frozen=True, slots=True)
class Options:
    """The checked options of a request; see `Reconstructor.reconstruct`."""

    estimator: str = "le-mmse"
    mode: str = "auto"
    k: int = DEFAULT_K
    nprobe: int = DEFAULT_NPROBE
    accuracy_db: float = DEFAULT_ACCURACY_DB
    budget: int | None = None
    maps: frozenset[str] = frozenset()
    error: str = "estimated"
    aggregate: str | None = None
    bandwidth: float | None = None
    gaussian_share: float | None = None
    quality: str = "paper"

    @property
    def certified(self) -> bool:
        """Whether a certified error is requested."""
        return "error" in self.maps and self.error == "certified"


def as_options(
    *,
    estimator: Any,
    mode: Any,
    k: Any,
    nprobe: Any,
    accuracy_db: Any,
    budget: Any,
    maps: Collection[str],
    error: Any,
    aggregate: Any,
    bandwidth: Any,
    gaussian_share: Any,
    quality: Any,
) -> Options:
    """Return checked options; the arguments are those of `Reconstructor.reconstruct`.

    Raises
    ------
    InvalidArgument
        An option has the wrong type or value.
    """
    options = Options(
        estimator=_as_one_of("estimator", estimator, ESTIMATORS),
        maps=_as_maps(maps),
        error=_as_one_of("error", error, ERRORS),
        accuracy_db=DEFAULT_ACCURACY_DB if accuracy_db is None else _as_accuracy(accuracy_db),
        mode=_as_one_of("mode", mode, MODES),
        k=DEFAULT_K if k is None else as_count("k", k),
        nprobe=DEFAULT_NPROBE if nprobe is None else as_count("nprobe", nprobe),
        budget=None if budget is None else as_count("budget", budget),
        aggregate=None if aggregate is None else _as_one_of("aggregate", aggregate, AGGREGATES),
        bandwidth=None if bandwidth is None else _as_number("bandwidth", bandwidth, BANDWIDTH_MAX),
        gaussian_share=None if gaussian_share is None else _as_number("gaussian_share", gaussian_share, 1.0),
        quality=_as_one_of("quality", quality, QUALITIES),
    )
    if options.mode == "topk" and "error" in options.maps:
        raise InvalidArgument.of(
            "maps", "expected other maps than error for mode topk, which does not know it"
        )
    return options


def as_count(argument: str, value: Any) -> int:
    """Return a whole number >= 1."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise InvalidArgument.of(argument, f"expected a whole number >= 1, got {value!r}") from error
    if count < 1:
        raise InvalidArgument.of(argument, f"expected a whole number >= 1, got {count}")
    return count


def as_pixel(pixel: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return a row and a column within an image of this shape."""
    height, width = shape[:2]
    try:
        row, column = (operator.index(x) for x in pixel)
    except (TypeError, ValueError) as error:
        raise InvalidArgument.of("pixel", f"expected (row, column), got {pixel!r}") from error
    if not (0 <= row < height and 0 <= column < width):
        raise InvalidArgument.of(
            "pixel",
            f"expected a row below {height} and a column below {width}, both >= 0, got ({row}, {column})",
        )
    return row, column


def _as_one_of(argument: str, value: Any, names: tuple[str, ...]) -> str:
    if value not in names:
        raise InvalidArgument.of(argument, f"expected one of {', '.join(names)}, got {value!r}")
    return str(value)


def _as_maps(maps: Collection[str]) -> frozenset[str]:
    for name in maps:
        if name not in MAPS:
            raise InvalidArgument.of("maps", f"expected names out of {', '.join(MAPS)}, got {name!r}")
    return frozenset(maps)


def _as_accuracy(value: Any) -> float:
    try:
        accuracy = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of("accuracy_db", f"expected a number of dB, got {value!r}") from error
    if not 0 < accuracy <= ACCURACY_MAX:
        raise InvalidArgument.of("accuracy_db", f"expected dB in (0, {ACCURACY_MAX:g}], got {accuracy:g}")
    return accuracy


def _as_number(argument: str, value: Any, most: float) -> float:
    """Return a number in [0, most]."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of(argument, f"expected a number, got {value!r}") from error
    if not 0 <= number <= most:
        raise InvalidArgument.of(argument, f"expected a number in [0, {most:g}], got {number:g}")
    return number
