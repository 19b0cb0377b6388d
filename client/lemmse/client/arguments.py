"""Checks that save a round trip, and what no message can carry; the rest is the estimator's to check."""

import math
import operator
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from lemmse.contract import AGGREGATES, ERRORS, ESTIMATORS, MAPS, MAX_CONTRIBUTORS, MODES, QUALITIES
from lemmse.contract.errors import InvalidArgument

__all__ = ["ExplainOptions", "Options", "as_name", "as_timeout"]

_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1
_FOREVER = 1e9
"""Seconds, of which gRPC cannot count many more: 30 years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a reconstruction asks for, besides what was measured."""

    index: str | None
    """Name of the index; None where there is only one."""
    estimator: str
    """Which of the family answers."""
    mode: str
    """How the posterior sums are computed."""
    k: int | None
    """Neighbours to sum for each patch."""
    nprobe: int | None
    """Cells of the index to search for each patch."""
    accuracy_db: float | None
    """Agreement with the sum over all keys that is asked for, PSNR in dB."""
    budget: int | None
    """Keys to sum at most for each patch."""
    maps: frozenset[str]
    """Results wanted beside the image."""
    error: str
    """Which error the map of that name is."""
    aggregate: str | None
    """What a pixel is, of the posterior means of patches; None for what the quality says."""
    bandwidth: float | None
    """Standard deviation of the Gaussian around each patch of the prior, in intensities; None for what the
    quality says."""
    gaussian_share: float | None
    """Share of the prior that the Gaussians have; None for what the quality says."""
    quality: str
    """Where what is None of the three comes from."""

    @classmethod
    def checked(
        cls,
        *,
        index: str | None,
        estimator: str,
        mode: str,
        k: Any,
        nprobe: Any,
        accuracy_db: Any,
        budget: Any,
        maps: Collection[str],
        error: str,
        aggregate: str | None,
        bandwidth: Any,
        gaussian_share: Any,
        quality: str,
    ) -> "Options":
        """Return what a caller asks for.

        Raises
        ------
        InvalidArgument
            An option cannot be meant.
        """
        if isinstance(maps, str) or not isinstance(maps, Iterable):
            raise InvalidArgument.of("maps", f"expected a collection of names, got {maps!r}")
        names = list(maps)
        for name in names:
            if not isinstance(name, str) or name not in MAPS:
                raise InvalidArgument.of("maps", f"expected names out of {', '.join(MAPS)}, got {name!r}")
        return cls(
            index=as_name(index),
            estimator=_as_one_of("estimator", estimator, ESTIMATORS),
            mode=_as_one_of("mode", mode, MODES),
            k=None if k is None else _as_count("k", k),
            nprobe=None if nprobe is None else _as_count("nprobe", nprobe),
            accuracy_db=None if accuracy_db is None else _as_number("accuracy_db", accuracy_db, " of dB"),
            budget=None if budget is None else _as_count("budget", budget, _UINT64),
            maps=frozenset(names),
            error=_as_one_of("error", error, ERRORS),
            aggregate=None if aggregate is None else _as_one_of("aggregate", aggregate, AGGREGATES),
            bandwidth=None if bandwidth is None else _as_number("bandwidth", bandwidth),
            gaussian_share=None if gaussian_share is None else _as_number("gaussian_share", gaussian_share),
            quality=_as_one_of("quality", quality, QUALITIES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """What an explanation asks for, besides what was measured."""

    index: str | None
    """Name of the index; None where there is only one."""
    pixel: tuple[int, int]
    """Row and column in the image."""
    top: int
    """Contributors to name."""

    @classmethod
    def checked(cls, shape: tuple[int, ...], *, index: str | None, pixel: Any, top: Any) -> "ExplainOptions":
        """Return what a caller asks for about an image of some shape.

        Raises
        ------
        InvalidArgument
            An option cannot be meant.
        """
        return cls(
            index=as_name(index),
            pixel=_as_pixel(pixel, shape),
            top=_as_count("top", top, MAX_CONTRIBUTORS),
        )


def as_name(index: Any) -> str | None:
    """Return the name of an index, or None."""
    if index is not None and not isinstance(index, str):
        raise InvalidArgument.of("index", f"expected the name of an index, got {index!r}")
    return index


def as_timeout(timeout: Any) -> float | None:
    """Return seconds, or None where they never pass."""
    if timeout is None:
        return None
    seconds = _as_number("timeout", timeout, " of seconds")
    if math.isnan(seconds):
        raise InvalidArgument.of("timeout", "expected a number of seconds, got nan")
    return seconds if seconds <= _FOREVER else None


def _as_one_of(argument: str, value: str, names: Collection[str]) -> str:
    """Return one of the names."""
    if not isinstance(value, str) or value not in names:
        raise InvalidArgument.of(argument, f"expected one of {', '.join(names)}, got {value!r}")
    return value


def _as_count(argument: str, value: Any, most: int = _UINT32) -> int:
    """Return a whole number from 1 to `most`."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise InvalidArgument.of(argument, f"expected a whole number >= 1, got {value!r}") from error
    if not 1 <= count <= most:
        bound = ">= 1" if count < 1 else f"<= {most}"
        raise InvalidArgument.of(argument, f"expected a whole number {bound}, got {count}")
    return count


def _as_number(argument: str, value: Any, unit: str = "") -> float:
    """Return a number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument.of(argument, f"expected a number{unit}, got {value!r}") from error


def _as_pixel(pixel: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the row and column of a pixel inside an image."""
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
