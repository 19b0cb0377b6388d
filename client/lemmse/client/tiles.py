"""Tiles of an image: what of it has to be read so that the answer for a tile is that for the whole image.

A pixel depends on the patch around it, or on all patches that contain it: on pixels up to some distance. A
tile is read with a halo of this width, which is cut off from the answer. At the border of the image a tile
ends where the image ends, so that the estimator continues both in the same way; where the boundary is
circular, the halo is read from the other side instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Span", "Tile", "Tiling", "halo_of", "tile_side", "widest_aggregate"]

_REACH = {"centre": 1, "overlap": 2, "epll": 10}
"""How many patch radii away the pixels of y may be that matter to a pixel of the answer, by aggregate."""
_SIDE = 512
"""Usual side of a tile, in pixels."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an axis, and what is read for it.

    Examples
    --------
    >>> Span.of(0, 4, length=10, halo=2, circular=False)
    Span(core=slice(0, 4, None), pieces=(slice(0, 6, None),), inner=slice(0, 4, None))
    >>> Span.of(0, 4, length=10, halo=2, circular=True)
    Span(core=slice(0, 4, None), pieces=(slice(8, 10, None), slice(0, 6, None)), inner=slice(2, 6, None))
    """

    core: slice
    """The part."""
    pieces: tuple[slice, ...]
    """What is read, one or two parts of the axis."""
    inner: slice
    """Where the part is in what is read."""

    def __len__(self) -> int:
        """Return the number of rows or columns."""
        return int(self.core.stop - self.core.start)

    @classmethod
    def of(cls, start: int, stop: int, *, length: int, halo: int, circular: bool) -> "Span":
        """Return the span of start … stop − 1 in an axis."""
        low, high = start - halo, stop + halo
        if not circular or high - low >= length:  # all of a circular axis continues as the image does
            low, high = (0, length) if circular else (max(0, low), min(length, high))
            pieces = [(low, high)]
        elif low < 0:
            pieces = [(low + length, length), (0, high)]
        elif high > length:
            pieces = [(low, length), (0, high - length)]
        else:
            pieces = [(low, high)]
        return cls(
            slice(start, stop), tuple(slice(*piece) for piece in pieces), slice(start - low, stop - low)
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile: the pixels in a span of the rows and a span of the columns."""

    rows: Span
    columns: Span

    @property
    def place(self) -> tuple[slice, slice]:
        """Where the tile is in the image."""
        return self.rows.core, self.columns.core

    @property
    def pixels(self) -> int:
        """Number of its pixels."""
        return len(self.rows) * len(self.columns)

    def read(self, array: Any) -> NDArray[Any]:
        """Return the tile with its halo, of an array (H, W, …) that takes slices."""
        bands = [
            _joined([np.asanyarray(array[rows, columns]) for columns in self.columns.pieces], axis=1)
            for rows in self.rows.pieces
        ]
        return _joined(bands, axis=0)

    def core(self, answer: NDArray[Any]) -> NDArray[Any]:
        """Return the answer for the tile without the halo."""
        return answer[self.rows.inner, self.columns.inner]


def _joined(parts: list[NDArray[Any]], axis: int) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0]
    masked = any(isinstance(part, np.ma.MaskedArray) for part in parts)
    joined: NDArray[Any] = np.ma.concatenate(parts, axis) if masked else np.concatenate(parts, axis)  # type: ignore[no-untyped-call]
    return joined


@dataclass(frozen=True, slots=True)
class Tiling:
    """The division of an image into tiles, row by row.

    Examples
    --------
    >>> tiling = Tiling((5, 8), (4, 4), halo=1, circular=False)
    >>> len(tiling), [tile.place for tile in tiling][-1]
    (4, (slice(4, 5, None), slice(4, 8, None)))
    """

    shape: tuple[int, int]
    """Height and width of the image."""
    side: tuple[int, int]
    """Height and width of a tile; those at the lower and right border may be smaller."""
    halo: int
    """Number of pixels to read around a tile."""
    circular: bool
    """Whether the image is continued periodically."""

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self._starts(0)) * len(self._starts(1))

    def __iter__(self) -> Iterator[Tile]:
        for row in self._starts(0):
            for column in self._starts(1):
                yield Tile(self._span(0, row), self._span(1, column))

    def _starts(self, axis: int) -> range:
        return range(0, self.shape[axis], self.side[axis])

    def _span(self, axis: int, start: int) -> Span:
        length = self.shape[axis]
        stop = min(start + self.side[axis], length)
        return Span.of(start, stop, length=length, halo=self.halo, circular=self.circular)


def widest_aggregate(aggregate: str | None, quality: str) -> str:
    """Return the aggregate of an answer, or the one of the widest reach if calibration decides."""
    return aggregate or ("epll" if quality == "best" else "centre")


def halo_of(radius: int, *, aggregate: str, counts: bool) -> int:
    """Return the distance up to which the pixels of y matter to a pixel of the answer.

    Parameters
    ----------
    radius : int
        Of patches: p // 2.
    aggregate : str
        How a pixel is made: "epll" is five times the mean over all patches that contain it.
    counts : bool
        Whether the noise is Poisson-Gaussian: then the noise map, of means of patches, is that of another
        reconstruction.
    """
    answer = _REACH[aggregate] * radius
    return answer + radius + answer if counts else answer


def tile_side(array: Any) -> tuple[int, int]:
    """Return the height and width of the tiles of an array: whole chunks, if it has chunks of a usual size.

    Examples
    --------
    >>> import types
    >>> tile_side(types.SimpleNamespace(chunks=(100, 1024, 3)))
    (500, 1024)
    """
    chunks = getattr(array, "chunks", None) or (_SIDE, _SIDE)
    # Dask gives the lengths of all chunks of an axis.
    lengths = [max(length) if isinstance(length, tuple) else int(length) for length in chunks[:2]]
    return _whole_chunks(lengths[0]), _whole_chunks(lengths[1])


def _whole_chunks(length: int) -> int:
    return _SIDE if length > 4 * _SIDE else max(1, round(_SIDE / length)) * length
