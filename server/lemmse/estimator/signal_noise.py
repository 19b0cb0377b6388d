"""Noise whose variance depends on the clean image: a fixed point of noise maps and reconstructions.

The noise of a pixel of intensity x has the variance gain · x + σ². A reconstruction x̂ gives a noise map, of
the means of patches, and that map the next reconstruction, until the map hardly changes.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.measurement import Measurement
from lemmse.index.storage.manifest import Manifest

__all__ = ["MOST_MAPS", "settle"]

MOST_MAPS = 6
"""Largest number of noise maps."""
_SETTLED = 0.01
"""Root mean square relative change of σ between two maps that counts as none."""


def settle(
    measurement: Measurement,
    manifest: Manifest,
    answer: Callable[[Measurement], NDArray[np.float32]],
) -> Measurement:
    """Return a measurement of Poisson-Gaussian noise with the noise map at its own reconstruction.

    Parameters
    ----------
    measurement : Measurement
        The measurement, whose gain and sigma are known.
    manifest : Manifest
        That of the index, which says what the patches are.
    answer : callable
        Returns the reconstruction of a measurement with Gaussian noise, in intensities.
    """
    stated = measurement.in_intensities
    sides, circular = (manifest.patch_size, manifest.patch_depth), manifest.boundary == "circular"
    now = stated.with_mean_noise()
    for _ in range(MOST_MAPS):
        last, now = now, stated.with_noise_at(answer(now), *sides, circular=circular)
        if np.sqrt(np.square(np.divide(now.sigma, last.sigma) - 1).mean()) <= _SETTLED:
            break
    return replace(measurement, sigma=now.sigma, gain=now.gain)
