"""The parts of a file that are reconstructed one by one: its planes, or slabs of its volumes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from lemmse.index.files import Layout

__all__ = ["Part", "Slabs", "middle_planes", "parts"]

_PIXELS = 1 << 22
"""Number of pixels of a slab, unless it has only the least number of planes."""
_LEAST = 8
"""Least number of planes of a slab, beside those that are read around it."""


@dataclass(frozen=True, slots=True)
class Slabs:
    """How volumes are cut into slabs, for an index of volumes."""

    halo: int
    """Number of planes on either side of a slab on which its result depends."""
    circular: bool
    """Whether the first plane of a volume follows the last one."""


@dataclass(frozen=True, slots=True)
class Part:
    """A plane, or some planes of a volume."""

    read: Sequence[int]
    """Numbers of the planes that are sent."""
    kept: range
    """Which of these are written."""
    middle: Sequence[int] = ()
    """Numbers of the planes that show the noise of the volume of a slab; none if all of it is sent."""

    @property
    def planes(self) -> list[tuple[int, int]]:
        """Number of each plane that is written, and its place among those that are sent."""
        return [(self.read[place], place) for place in self.kept]


def parts(layout: Layout, slabs: Slabs | None) -> Iterator[Part]:
    """Yield the parts of a file of this layout, such that each of its planes is written once.

    The result of a slab equals that of its volume: beyond the end of a volume the server goes on as the index
    says, and elsewhere the slab contains all planes on which it depends.

    Raises
    ------
    InvalidArgument
        Volumes are expected and there is only one plane.

    Examples
    --------
    >>> [part.read for part in parts(Layout("TYX", (3, 5, 4)), None)]
    [[0], [1], [2]]
    >>> [part.planes[0] for part in parts(Layout("ZYX", (20, 1024, 1024)), Slabs(1, circular=False))]
    [(0, 0), (8, 1), (16, 1)]
    """
    if slabs is None:
        for k in range(layout.count):
            yield Part([k], range(1))
        return
    step = _planes_of_slab(layout)
    for volume in layout.volumes().tolist():
        depth, halo = len(volume), slabs.halo
        if step + 2 * halo >= depth:
            yield Part(volume, range(depth))
            continue
        middle = middle_planes(layout, volume)
        for start in range(0, depth, step):
            stop = min(start + step, depth)
            first, end = start - halo, stop + halo
            if not slabs.circular:
                first, end = max(0, first), min(depth, end)
            read = [volume[z % depth] for z in range(first, end)]
            yield Part(read, range(start - first, stop - first), middle)


def middle_planes(layout: Layout, volume: Sequence[int]) -> Sequence[int]:
    """Return the planes in the middle of a volume in which its noise is estimated, as many as a slab has."""
    count = min(len(volume), _planes_of_slab(layout))
    start = (len(volume) - count) // 2
    return volume[start : start + count]


def _planes_of_slab(layout: Layout) -> int:
    """Return the number of planes of a slab that are written."""
    return max(_LEAST, _PIXELS // prod(layout.plane_shape[:2]))
