"""The names that options have, and their numbers, read from the contract itself."""

from typing import TypeVar

from google.protobuf.descriptor import EnumDescriptor

from lemmse.v1 import reconstruction_pb2 as pb

__all__ = [
    "AGGREGATES",
    "ERRORS",
    "ESTIMATORS",
    "MAPS",
    "MODES",
    "QUALITIES",
    "aggregate_name",
    "error_name",
    "estimator_name",
    "mode_name",
    "quality_name",
]

T = TypeVar("T")


def _numbers(enum: EnumDescriptor, prefix: str) -> dict[str, int]:
    """Return the enum's values by lower-case name, without the one that stands for "not given"."""
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}


ESTIMATORS = {
    name.replace("_", "-"): number for name, number in _numbers(pb.Estimator.DESCRIPTOR, "ESTIMATOR_").items()
}
"""Number of each estimator: le-mmse, e-mmse, mmse."""

MODES = _numbers(pb.Mode.DESCRIPTOR, "MODE_")
"""Number of each mode: auto, exact, topk, hybrid."""

MAPS = _numbers(pb.Map.DESCRIPTOR, "MAP_")
"""Number of each map: variance, ess, log_density, error; each is also the name of its field in the answer."""

ERRORS = _numbers(pb.ErrorKind.DESCRIPTOR, "ERROR_KIND_")
"""Number of each kind of error map: estimated, certified."""

AGGREGATES = _numbers(pb.Aggregate.DESCRIPTOR, "AGGREGATE_")
"""Number of each way to put pixels together: centre, overlap."""

QUALITIES = _numbers(pb.Quality.DESCRIPTOR, "QUALITY_")
"""Number of each quality: paper, best."""

_ESTIMATOR_NAMES = {number: name for name, number in ESTIMATORS.items()} | {
    pb.ESTIMATOR_UNSPECIFIED: "le-mmse"
}
_MODE_NAMES = {number: name for name, number in MODES.items()} | {pb.MODE_UNSPECIFIED: "auto"}
_ERROR_NAMES = {number: name for name, number in ERRORS.items()} | {pb.ERROR_KIND_UNSPECIFIED: "estimated"}
_AGGREGATE_NAMES = {number: name for name, number in AGGREGATES.items()} | {pb.AGGREGATE_UNSPECIFIED: None}
_QUALITY_NAMES = {number: name for name, number in QUALITIES.items()} | {pb.QUALITY_UNSPECIFIED: "paper"}


def estimator_name(number: int) -> str:
    """Return the name of an estimator; one that was not given is le-mmse.

    Raises
    ------
    ValueError
        The number is none of the contract's.

    Examples
    --------
    >>> estimator_name(pb.ESTIMATOR_UNSPECIFIED), estimator_name(pb.ESTIMATOR_E_MMSE)
    ('le-mmse', 'e-mmse')
    """
    return _named(_ESTIMATOR_NAMES, number)


def mode_name(number: int) -> str:
    """Return the name of a mode; a mode that was not given is auto.

    Raises
    ------
    ValueError
        The number is none of the contract's.

    Examples
    --------
    >>> mode_name(pb.MODE_UNSPECIFIED), mode_name(pb.MODE_EXACT)
    ('auto', 'exact')
    """
    return _named(_MODE_NAMES, number)


def error_name(number: int) -> str:
    """Return the name of a kind of error map; one that was not given is estimated.

    Raises
    ------
    ValueError
        The number is none of the contract's.

    Examples
    --------
    >>> error_name(pb.ERROR_KIND_UNSPECIFIED), error_name(pb.ERROR_KIND_CERTIFIED)
    ('estimated', 'certified')
    """
    return _named(_ERROR_NAMES, number)


def aggregate_name(number: int) -> str | None:
    """Return the name of a way to put pixels together; one that was not given has none.

    Raises
    ------
    ValueError
        The number is none of the contract's.

    Examples
    --------
    >>> aggregate_name(pb.AGGREGATE_UNSPECIFIED), aggregate_name(pb.AGGREGATE_OVERLAP)
    (None, 'overlap')
    """
    return _named(_AGGREGATE_NAMES, number)


def quality_name(number: int) -> str:
    """Return the name of a quality; one that was not given is paper.

    Raises
    ------
    ValueError
        The number is none of the contract's.

    Examples
    --------
    >>> quality_name(pb.QUALITY_UNSPECIFIED), quality_name(pb.QUALITY_BEST)
    ('paper', 'best')
    """
    return _named(_QUALITY_NAMES, number)


def _named(names: dict[int, T], number: int) -> T:
    if number not in names:
        raise ValueError(f"expected one of {', '.join(map(str, sorted(names)))}, got {number}")
    return names[number]
