"""Volumes: planes that follow each other, in z or t, each of which is one of a stack of images.

A patch of p_z planes, p_z odd, is centred in a plane, and has the same rows and columns in ⌊p_z/2⌋ planes
on either side of it. Beyond the first and the last plane, the planes of the volume repeat or are mirrored,
as rows and columns are (see `lemmse.index.images.stack`); with "valid", training patches lie inside their
volume.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lemmse.index.images.stack import inside

__all__ = ["planes_around", "whole"]


def planes_around(depths: Sequence[int] | NDArray[np.int64], p_z: int, boundary: str) -> NDArray[np.int64]:
    """Return the numbers of the planes that a patch centred in each plane lies in, int64, (K, p_z).

    Parameters
    ----------
    depths : sequence of int
        Number of planes of each volume; the planes of all volumes are numbered from 0 to K − 1.
    p_z : int
        Number of planes of a patch, odd.
    boundary : str
        What is read beyond the first and the last plane of a volume.

    Examples
    --------
    >>> planes_around([3, 1], 3, "reflect").tolist()
    [[1, 0, 1], [0, 1, 2], [1, 2, 1], [3, 3, 3]]
    """
    first, z, depth = _places(depths)
    offsets = np.arange(p_z) - p_z // 2
    return first[:, None] + inside(z[:, None] + offsets, depth[:, None], boundary)


def whole(depths: Sequence[int] | NDArray[np.int64], p_z: int) -> NDArray[np.int64]:
    """Return the numbers of the planes around which patches of p_z planes lie inside their volume.

    Examples
    --------
    >>> whole([4, 2], 3)
    array([1, 2])
    """
    _, z, depth = _places(depths)
    return np.flatnonzero((z >= p_z // 2) & (z + p_z // 2 < depth))


def _places(
    depths: Sequence[int] | NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each plane, the first plane of its volume, its place in it, and the volume's depth."""
    own = np.asarray(depths, np.int64)
    depth, first = np.repeat(own, own), np.repeat(np.cumsum(own) - own, own)
    return first, np.arange(len(depth)) - first, depth
