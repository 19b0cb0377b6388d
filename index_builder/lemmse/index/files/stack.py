"""An opened file: planes that are decoded one by one, and what the file says beside its pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.layout import Layout
from lemmse.index.files.mapped import forget
from lemmse.index.files.readable import readable
from lemmse.index.files.scale import Scale

__all__ = ["Metadata", "Stack"]


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

    def numbers(self, k: int) -> NDArray[Any]:
        """Return plane k, (H, W) or (H, W, C), in the numbers of the file."""
        with readable():
            plane = self.layout.to_plane(np.asanyarray(self.array[self.layout.index(k)]))
            numbers = plane.astype(plane.dtype.newbyteorder("="), copy=isinstance(plane, np.memmap))
        forget(self.array)
        return numbers

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
