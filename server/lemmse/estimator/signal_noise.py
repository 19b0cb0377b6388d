"""Noise whose variance depends on the clean image: a fixed point of noise maps and reconstructions.

The noise of a pixel of intensity x has the variance gain · x + σ². A reconstruction x̂ gives a noise map, of
the means of patches, and that map the next reconstruction, until the map hardly changes.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.measurement import Measurement

__all__ = ["MOST_MAPS", "settle"]

MOST_MAPS = 6
"""Largest number of noise maps."""
_SETTLED = 0.01
"""Root mean square relative change of σ between two maps that counts as none."""


def settle(
    measurement: Measurement,
    patch_size: int,
    patch_depth: int,
    answer: Callable[[Measurement], NDArray[np.float32]],
) -> Measurement:
    """Return a measurement of Poisson-Gaussian noise with the noise map at its own reconstruction.

    Parameters
    ----------
    measurement : Measurement
        The measurement, whose gain and sigma are known.
    patch_size, patch_depth : int
        Rows and columns, and planes, of the patches.
    answer : callable
        Returns the reconstruction of a measurement with Gaussian noise, in intensities.
    """
    stated = replace(measurement, black_level=0.0, white_level=1.0)
    now = stated.with_mean_noise()
    for _ in range(MOST_MAPS):
        last, now = now, stated.with_noise_at(answer(now), patch_size, patch_depth)
        if np.sqrt(np.square(np.divide(now.sigma, last.sigma) - 1).mean()) <= _SETTLED:
            break
    return replace(now, black_level=measurement.black_level, white_level=measurement.white_level)
