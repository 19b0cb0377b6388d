"""Aggregate "epll": the image that is near the measurement and all of whose patches are likely.

The mean over overlapping patches is not made of likely patches itself: where the posterior means of patches
differ, it is blurred, and noise is left. The expected patch log likelihood counts the patches of one image,

    x̂ = argmin ½ Σ_i λ_i (x_i − y_i)² − Σ_n log p(P_n x) / N,      N patches contain a pixel.

Half-quadratic splitting finds it: the patches of x are denoised as if they had noise of variance σ² / β, and
x is the mean of y and the image φ of these patches, with the weights λ_i and β / σ²; β grows.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.observation import SIGMA_RANGE, Observation

__all__ = ["split", "split_sigmas"]

_BETAS = 1.0, 4.0, 8.0, 16.0, 32.0
"""The values of β: that of the measurement, and those of the reference as far as φ changes."""


def split(
    observation: Observation,
    mean: Callable[[Observation], NDArray[np.float64]],
    first: NDArray[np.float64] | None = None,
) -> Observation:
    """Return the observation whose mean over overlapping patches is the answer: φ at the last β.

    Parameters
    ----------
    observation : Observation
        The measurement.
    mean : callable
        Returns the mean over the overlapping patches of an observation, in the shape of its y.
    first : float64, shape of y, optional
        An estimate of the image, in place of that mean for the measurement itself.

    References
    ----------
    D. Zoran, Y. Weiss, From learning models of natural image patches to whole image restoration, IEEE
    International Conference on Computer Vision (2011).
    """
    y, precision, now = observation.y, observation.precision, observation
    for sigma, finer in pairwise(split_sigmas(observation.rms_sigma)):
        weight = 1 / sigma**2
        phi = mean(now) if now is not observation or first is None else first
        now = replace(now, y=(precision * y + weight * phi) / (precision + weight), sigma=finer)
    return now


def split_sigmas(sigma: float) -> list[float]:
    """Return the noise of each mean of patches, of which the first is that of the measurement."""
    return [max(sigma / math.sqrt(beta), SIGMA_RANGE[0]) for beta in _BETAS]
