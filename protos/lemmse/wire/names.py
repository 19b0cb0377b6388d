"""The names of modes and maps and their numbers on the wire, read from the contract itself."""

from google.protobuf.descriptor import EnumDescriptor

from lemmse.v1 import reconstruction_pb2 as pb

__all__ = ["MAPS", "MODES", "mode_name"]


def _numbers(enum: EnumDescriptor, prefix: str) -> dict[str, int]:
    """Return the enum's values by lower-case name, without the one that stands for "not given"."""
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}


MODES = _numbers(pb.Mode.DESCRIPTOR, "MODE_")
"""Number of each mode: auto, exact, topk."""

MAPS = _numbers(pb.Map.DESCRIPTOR, "MAP_")
"""Number of each map: variance, ess, log_density; each is also the name of its field in the answer."""


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
    if number == pb.MODE_UNSPECIFIED:
        return "auto"
    return pb.Mode.Name(pb.Mode.ValueType(number)).removeprefix("MODE_").lower()
