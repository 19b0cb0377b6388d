"""What only index folders on this machine can show: their training images, and measurements of others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lemmse.client.extras import required
from lemmse.index.sources import intensities

__all__ = ["LocalIndexes"]


class LocalIndexes:
    """Index folders that a client has opened and verified; of a server there are none.

    Parameters
    ----------
    folders : sequence of str
        The folders of the client.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._indexes = {}
        if folders:
            with required("an index in this process"):
                from lemmse.index.reading import open_unverified
            opened = map(open_unverified, folders)
            self._indexes = {index.info.name: index for index in opened}

    def __contains__(self, name: str) -> bool:
        return name in self._indexes

    def training_image(self, name: str, number: int) -> NDArray[np.float32]:
        """Return a training image of an index, in intensities, (H, W, C)."""
        return intensities(self._indexes[name].image(number))

    def measure(self, name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the measurement of a clean image without noise, in the shape of x, (H, W, C).

        Raises
        ------
        InvalidArgument
            The operator of the index is not defined on images of this size.
        """
        problem = self._indexes[name].problem
        problem.check(x.shape)
        return problem.measure(x).astype(np.float32)
