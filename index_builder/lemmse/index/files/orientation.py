"""The orientation that EXIF and TIFF state: how a picture is turned for display."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["swapped", "upright"]


def swapped(orientation: int) -> bool:
    """Return whether an orientation exchanges rows and columns."""
    return 5 <= orientation <= 8


def upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image as it is displayed.

    Parameters
    ----------
    image : ndarray, (H, W) or (H, W, C)
        The image as it is stored.
    orientation : int
        Number of the orientation in EXIF and TIFF, 1 to 8; others mean 1, upright.

    Examples
    --------
    >>> upright(np.array([[1, 2], [3, 4]]), 6)      # the first row is displayed as the last column
    array([[3, 1],
           [4, 2]])
    """
    if swapped(orientation):
        image = image.swapaxes(0, 1)
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    rows = -1 if orientation in (3, 4) else 1
    columns = -1 if orientation in (2, 3) else 1
    return np.ascontiguousarray(image[::rows, ::columns]) if (rows, columns) != (1, 1) else image
