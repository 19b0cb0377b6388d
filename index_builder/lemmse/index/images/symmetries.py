"""The eight symmetries of the square grid: rotations by 90° and their mirror images, in a fixed order.

0 identity      4 flip               left and right exchanged
1 rotate-90     5 flip-rotate-90     flipped first; rotations are counter-clockwise
2 rotate-180    6 flip-rotate-180
3 rotate-270    7 flip-rotate-270
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["SYMMETRIES", "apply", "origin"]

SYMMETRIES = (
    "identity",
    "rotate-90",
    "rotate-180",
    "rotate-270",
    "flip",
    "flip-rotate-90",
    "flip-rotate-180",
    "flip-rotate-270",
)
"""Names of the symmetries, by number."""

_T = TypeVar("_T", bound=np.generic)


def apply(image: NDArray[_T], symmetry: int) -> NDArray[_T]:
    """Return an image, (H, W, …), transformed by the symmetry with a number.

    Examples
    --------
    >>> apply(np.array([[1, 2], [3, 4]]), SYMMETRIES.index("rotate-90"))
    array([[2, 4],
           [1, 3]])
    """
    return np.rot90(image[:, ::-1] if symmetry >= 4 else image, symmetry % 4)


def origin(
    symmetry: NDArray[np.integer],
    row: NDArray[np.integer],
    column: NDArray[np.integer],
    size: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions in the original images of pixels of transformed copies.

    Parameters
    ----------
    symmetry, row, column : int, (n,)
        Number of the symmetry, row and column in the copy.
    size : int, (n, 2)
        Height and width of the original images.

    Returns
    -------
    rows, columns : int64, (n,)
        Row and column in the original images.

    Examples
    --------
    >>> size = np.array([[2, 5]])
    >>> [int(i[0]) for i in origin(*(np.array([i]) for i in (SYMMETRIES.index("rotate-90"), 0, 0)), size)]
    [0, 4]
    """
    bottom, right = size.T - 1
    turn = symmetry % 4
    rows = np.choose(turn, [row, column, bottom - row, bottom - column])
    columns = np.choose(turn, [column, right - row, right - column, row])
    return rows, np.where(symmetry >= 4, right - columns, columns)
