"""Names of the values of the enumerations of `lemmse.v1`, read from their descriptors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from google.protobuf.descriptor import EnumDescriptor

from lemmse.v1 import reconstruction_pb2 as pb

__all__ = ["AGGREGATES", "CHOICES", "ERRORS", "ESTIMATORS", "MAPS", "MODES", "QUALITIES", "Choice"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The names of the values of an enumeration, without the value for "unspecified".

    Examples
    --------
    >>> list(MODES), MODES.numbers["exact"], MODES.name(2)
    (['auto', 'exact', 'topk', 'hybrid'], 2, 'exact')
    """

    numbers: Mapping[str, int]
    """Number of the value of each name."""

    @classmethod
    def of(cls, enum: EnumDescriptor, *, prefix: str, hyphens: bool = False) -> "Choice":
        """Return the names of an enumeration, without the common prefix of its values and in lower case."""
        numbers = {
            value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number
        }
        if hyphens:
            numbers = {name.replace("_", "-"): number for name, number in numbers.items()}
        return cls(MappingProxyType(numbers))

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.numbers

    def __str__(self) -> str:
        return ", ".join(self.numbers)

    def name(self, number: int) -> str:
        """Return the name of the value with a number.

        Raises
        ------
        ValueError
            The enumeration has no value with this number.
        """
        for name, known in self.numbers.items():
            if known == number:
                return name
        raise ValueError(f"expected one of {self}, got {number}")


ESTIMATORS = Choice.of(pb.Estimator.DESCRIPTOR, prefix="ESTIMATOR_", hyphens=True)
MODES = Choice.of(pb.Mode.DESCRIPTOR, prefix="MODE_")
MAPS = Choice.of(pb.Map.DESCRIPTOR, prefix="MAP_")
ERRORS = Choice.of(pb.ErrorKind.DESCRIPTOR, prefix="ERROR_KIND_")
AGGREGATES = Choice.of(pb.Aggregate.DESCRIPTOR, prefix="AGGREGATE_")
QUALITIES = Choice.of(pb.Quality.DESCRIPTOR, prefix="QUALITY_")

CHOICES: Mapping[str, Choice] = MappingProxyType(
    {
        pb.Estimator.DESCRIPTOR.full_name: ESTIMATORS,
        pb.Mode.DESCRIPTOR.full_name: MODES,
        pb.Map.DESCRIPTOR.full_name: MAPS,
        pb.ErrorKind.DESCRIPTOR.full_name: ERRORS,
        pb.Aggregate.DESCRIPTOR.full_name: AGGREGATES,
        pb.Quality.DESCRIPTOR.full_name: QUALITIES,
    }
)
"""The names of each enumeration, by its full name."""
