"""How sources are read: axes, range and region as the user states them."""

import re
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files import Layout

__all__ = ["Reading", "Region"]

_REGION = re.compile(r"(-?\d{1,9})?:(-?\d{1,9})?,(-?\d{1,9})?:(-?\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of an image, as slices of its rows and columns.

    Examples
    --------
    >>> region = Region.parse("1:3, -2:")
    >>> str(region), region.within(4, 5)
    ('1:3, -2:', (slice(1, 3, None), slice(3, 5, None)))
    """

    rows: slice
    columns: slice

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the region of a text such as '0:512,-512:', two slices of Python without a step.

        Raises
        ------
        InvalidArgument
            The text is no such region, or one without pixels in every image.
        """
        found = _REGION.fullmatch(text.replace(" ", ""))
        if found is None:
            raise InvalidArgument.of(
                "roi", f"expected ROW:ROW,COLUMN:COLUMN, such as 0:512,-512:, got {text!r}"
            )
        top, bottom, left, right = (None if number is None else int(number) for number in found.groups())
        return cls(slice(top, bottom), slice(left, right))

    def __str__(self) -> str:
        return ", ".join(
            ":".join("" if end is None else str(end) for end in (part.start, part.stop))
            for part in (self.rows, self.columns)
        )

    def within(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of the region in an image of this size, clipped to it as by Python.

        Raises
        ------
        InvalidArgument
            There are none.
        """
        rows, columns = (
            slice(*part.indices(length)[:2]) for part, length in ((self.rows, height), (self.columns, width))
        )
        if rows.start >= rows.stop or columns.start >= columns.stop:
            raise InvalidArgument.of("roi", f"expected pixels of an image of {height}x{width}, got [{self}]")
        return rows, columns


@dataclass(frozen=True, slots=True)
class Reading:
    """What the user states about sources; None leaves it to the file."""

    axes: str | None = None
    """Letters of the axes; see `lemmse.index.files.layout`."""
    stated: tuple[float, float] | None = None
    """The numbers that encode intensities 0 and 1."""
    roi: Region | None = None
    """The region of each image that is used."""
    bounded: bool = True
    """Whether floats outside [0, 1] are an error; those of noise are signed."""

    def cropped(self, layout: Layout, index: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the index of a plane, restricted to the region."""
        if self.roi is None:
            return index
        rows, columns = self.roi.within(*layout.plane_shape[:2])
        inside = {"Y": rows, "X": columns}
        return tuple(inside.get(letter, part) for letter, part in zip(layout.axes, index, strict=True))

    def crop(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the region of an image, (H, W) or (H, W, C)."""
        return image if self.roi is None else image[self.roi.within(*image.shape[:2])]

    def label(self, name: str, plane: int | None = None) -> str:
        """Return the label of an image: the name of its file, the number of its plane, and the region."""
        parts = [str(part) for part in (plane, self.roi) if part is not None]
        return f"{name}[{', '.join(parts)}]" if parts else name
