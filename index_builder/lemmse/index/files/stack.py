"""An opened file: planes that are decoded one by one, and what the file says beside its pixels."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.layout import Layout
from lemmse.index.files.limits import check_size
from lemmse.index.files.mapped import forget
from lemmse.index.files.readable import readable
from lemmse.index.files.scale import Scale

__all__ = ["Metadata", "Plane", "Stack", "plane_chunks"]

_BAND = 1 << 22
"""Number of values of a plane that are read at once, where all of them are needed one after the other."""


class _Array(Protocol):
    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a file says beside its pixels, and which outputs keep. All of it may be empty."""

    resolution: tuple[float, float] | None = None
    """Pixels per unit of length, in x and y."""
    unit: int = 2
    """The unit of length, as TIFF numbers it: 1 none, 2 inch, 3 centimetre."""
    icc: bytes | None = None
    """Colour profile."""
    exif: bytes | None = None
    """EXIF without the orientation, which is applied to the pixels."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Descriptions and comments by keyword."""
    tags: tuple[tuple[int, int, int, Any, bool], ...] = ()
    """TIFF tags to be written as they are: code, type, count, value, True."""
    kind: str = ""
    """Convention of a TIFF file for its axes: imagej, ome, or none."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the convention says: pixel sizes, units, names of channels. For Zarr, the attributes."""
    compression: int = 1
    """Compression of a TIFF file, as TIFF numbers it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """An opened file; close it, or use it in a `with` statement."""

    layout: Layout
    """The axes, after the orientation was applied."""
    scale: Scale
    """How the numbers encode intensities."""
    array: _Array
    """The numbers as displayed, upright and without alpha; indexed by `Layout.index`, and then decoded."""
    metadata: Metadata = Metadata()
    """What the file says beside its pixels."""
    nodata: float | None = None
    """The number that marks pixels that were not observed."""
    divisible: bool = False
    """Whether parts of a plane are read without decoding all of it."""
    close: Callable[[], None] = lambda: None
    """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of planes."""
        return self.layout.count

    def joined(self, channels: int) -> "Stack":
        """Return the stack with the axis C as colours, if it has this size and nothing else is colours."""
        return replace(self, layout=self.layout.joined(channels))

    def numbers(self, k: int, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[Any]:
        """Return plane k, (H, W) or (H, W, C), or some of its rows and columns, in the numbers of the file.

        Raises
        ------
        InvalidArgument
            The file is damaged, or the plane is asked for as a whole and too large for that.
        """
        if rows == columns == slice(None):
            check_size(*self.layout.plane_shape)
        with readable():
            plane = self.layout.to_plane(np.asanyarray(self.array[self.layout.index(k, rows, columns)]))
            numbers = plane.astype(plane.dtype.newbyteorder("="), copy=isinstance(plane, np.memmap))
        forget(self.array)
        return numbers

    def plane(self, k: int) -> "Plane":
        """Return plane k as an array that takes slices."""
        return Plane(self, k)

    def missing(self, numbers: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return where a plane was not observed; None if it was observed everywhere."""
        if self.nodata is None:
            return None
        with np.errstate(over="ignore"):  # a nodata number that the element type cannot hold marks nothing
            missing = np.isnan(numbers) if np.isnan(self.nodata) else numbers == self.nodata
        return missing if missing.any() else None

    def only(self) -> NDArray[Any]:
        """Return the numbers of the only plane.

        Raises
        ------
        InvalidArgument
            There are several planes.
        """
        if len(self) != 1:
            raise InvalidArgument(f"expected one picture, got {len(self)} ({self.layout.axes})")
        return self.numbers(0)


class Plane:
    """A plane of a stack as an array (H, W) or (H, W, C), of which slices of rows and columns are read.

    Where the file is not divisible, the plane is decoded as a whole, once.

    Parameters
    ----------
    stack : Stack
        The opened file, which stays open.
    k : int
        Number of the plane.
    """

    def __init__(self, stack: Stack, k: int) -> None:
        self._stack, self._k = stack, k
        self.shape = stack.layout.plane_shape
        self.dtype = stack.scale.dtype

    @property
    def chunks(self) -> tuple[int, int] | None:
        """Height and width of the parts that are stored together, if the file says so."""
        return plane_chunks(self._stack.layout, self._stack.array)

    def __getitem__(self, place: tuple[slice, slice]) -> NDArray[Any]:
        """Return some rows and columns, in the numbers of the file."""
        if self._stack.divisible:
            return self._stack.numbers(self._k, *place)
        return self._whole[place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all of the plane, if it is not too large for that."""
        return self._stack.numbers(self._k).astype(dtype or self.dtype, copy=False)

    def bands(self) -> Iterator[NDArray[Any]]:
        """Yield all of the plane, a few rows at a time."""
        step = max(1, _BAND // prod(self.shape[1:]))
        for start in range(0, self.shape[0], step):
            yield self[start : min(start + step, self.shape[0]), :]

    @cached_property
    def _whole(self) -> NDArray[Any]:
        return self._stack.numbers(self._k)


def plane_chunks(layout: Layout, array: Any) -> tuple[int, int] | None:
    """Return height and width of the chunks of an array of a layout; None if it has none."""
    chunks = getattr(array, "chunks", None)
    return None if chunks is None else (chunks[layout.axes.index("Y")], chunks[layout.axes.index("X")])
