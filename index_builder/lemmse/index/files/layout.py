"""The axes of a file, and the planes that they divide it into.

Axes have letters: Y and X are rows and columns, S the colour channels of a pixel (its samples), and all
others, such as T, C and Z, number planes. Planes are the images that are reconstructed: (H, W), or (H, W, C)
where the file has an axis of colours.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Letters and sizes of the axes of an array, in the order of the file.

    Examples
    --------
    >>> layout = Layout("TZYX", (2, 3, 5, 4))
    >>> layout.count, layout.plane_shape, layout.index(4)
    (6, (5, 4), (1, 1, slice(None, None, None), slice(None, None, None)))
    """

    axes: str
    """One letter for each axis; Y and X are among them."""
    shape: tuple[int, ...]
    """Their sizes."""
    colour: str = "S"
    """The axis of the channels of a plane, if there is one of that letter."""

    @classmethod
    def checked(cls, axes: str, shape: tuple[int, ...]) -> Self:
        """Return the layout of an array.

        Raises
        ------
        InvalidArgument
            There is not one letter for each axis, Y or X is missing, or an axis is empty.
        """
        if len(axes) != len(shape) or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
            raise InvalidArgument(
                f"expected Y, X and one letter for each of {len(shape)} axes, got {axes} for {shape}"
            )
        if 0 in shape:
            raise InvalidArgument(f"expected an image, got shape {shape}")
        return cls(axes, tuple(map(int, shape)))

    @property
    def loops(self) -> tuple[int, ...]:
        """Sizes of the axes that number planes."""
        return tuple(self.shape[i] for i in self._loop_axes)

    @property
    def count(self) -> int:
        """Number of planes."""
        return prod(self.loops)

    @property
    def channels(self) -> int:
        """Number of channels of a plane."""
        return self.shape[self.axes.index(self.colour)] if self.colour in self.axes else 1

    @property
    def plane_shape(self) -> tuple[int, ...]:
        """Shape of a plane, (H, W) or (H, W, C)."""
        return tuple(self.shape[self.axes.index(letter)] for letter in self._plane_letters)

    def volumes(self) -> NDArray[np.int64]:
        """Return the numbers of the planes of each volume, (V, D): planes in z or, if there is no z, in t.

        All other axes that number planes number volumes.

        Raises
        ------
        InvalidArgument
            There is only one plane without a number.

        Examples
        --------
        >>> Layout("TZYX", (2, 3, 5, 4)).volumes().tolist(), Layout("ZCYX", (3, 2, 5, 4)).volumes().tolist()
        ([[0, 1, 2], [3, 4, 5]], [[0, 2, 4], [1, 3, 5]])
        """
        letters = [self.axes[i] for i in self._loop_axes]
        if not letters:
            raise InvalidArgument(f"expected a volume, with an axis Z or T, got {self.axes} {self.shape}")
        axis = next((letters.index(letter) for letter in "ZT" if letter in letters), -1)
        planes = np.moveaxis(np.arange(self.count).reshape(self.loops), axis, -1)
        return planes.reshape(-1, planes.shape[-1])

    def joined(self, channels: int) -> "Layout":
        """Return the layout with the axis C as colours, if it has this size and nothing else is colours."""
        fits = "S" not in self.axes and "C" in self.axes and self.shape[self.axes.index("C")] == channels
        return replace(self, colour="C") if fits and channels > 1 else self

    def of_map(self, *, per_channel: bool) -> "Layout":
        """Return the layout of a map with one number for each pixel, or for each channel of it."""
        if per_channel or self.colour not in self.axes:
            return self
        i = self.axes.index(self.colour)
        return Layout(self.axes[:i] + self.axes[i + 1 :], self.shape[:i] + self.shape[i + 1 :])

    def index(self, k: int, rows: slice = slice(None), columns: slice = slice(None)) -> tuple[Any, ...]:
        """Return the index of plane k, or of some of its rows and columns, in an array of this layout."""
        index: list[Any] = [{"Y": rows, "X": columns}.get(letter, slice(None)) for letter in self.axes]
        for i, n in zip(self._loop_axes, np.unravel_index(k, self.loops) if self.loops else (), strict=True):
            index[i] = int(n)
        return tuple(index)

    def to_plane(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return what `index` selects with its axes in the order row, column, channel."""
        return part.transpose([self._kept.index(letter) for letter in self._plane_letters])

    def from_plane(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return a plane with its axes in the order of the file."""
        return plane.transpose([self._plane_letters.index(letter) for letter in self._kept])

    @property
    def _plane_letters(self) -> str:
        return "YX" + (self.colour if self.colour in self.axes else "")

    @property
    def _kept(self) -> str:
        return "".join(letter for letter in self.axes if letter in self._plane_letters)

    @property
    def _loop_axes(self) -> list[int]:
        return [i for i, letter in enumerate(self.axes) if letter not in self._plane_letters]
