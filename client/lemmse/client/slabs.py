"""The parts of a file that are reconstructed one by one: its planes, or slabs of its volumes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lemmse.index.files import Layout

__all__ = ["Part", "Slabs", "parts"]

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
    height, width = layout.plane_shape[:2]
    for volume in layout.volumes().tolist():
        depth, halo = len(volume), slabs.halo
        step = max(_LEAST, _PIXELS // (height * width))
        if step + 2 * halo >= depth:
            yield Part(volume, range(depth))
            continue
        for start in range(0, depth, step):
            stop = min(start + step, depth)
            first, end = start - halo, stop + halo
            if not slabs.circular:
                first, end = max(0, first), min(depth, end)
            yield Part([volume[z % depth] for z in range(first, end)], range(start - first, stop - first))
