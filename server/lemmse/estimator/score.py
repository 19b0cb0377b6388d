"""The error to expect of a reconstruction, from the noisy image alone: Stein's unbiased risk estimate.

For noise e of standard deviation s_i in y_i and an estimate x̂(y),

    E (x̂_i − x_i)² = E [ (x̂_i − y_i)² − s_i² + 2 Σ_j Cov(e_i, e_j) ∂x̂_i/∂y_j ].

For a posterior mean E[v | u], the Jacobian is the posterior covariance of v times the inverse of that of the
noise. So the *response* D_i, the sum over j, is the posterior variance V_i if x̂ is taken from the centres of
patches; if x̂ is the mean over the patches that contain pixel i, it is the mean of the variances of the pixel
in them. Where a patch reads a
pixel twice, at a mirrored border, it is not known. The terms

    d_i = (x̂_i − y_i)² − s_i² + 2 D_i − V_i,

V_i being the error that the model expects, have mean 0 if the model is right. Their mean over the pixels that
are read once, the *misfit*, is what the model does not know; the error to expect is the mean of V plus the
misfit. Of few pixels at high noise, the mean of d is far from its expectation: it is weighted by its
precision against a misfit of 0 ± 30 % of V, unless it is larger than its standard deviation explains (the
positive part of James and Stein).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.observation import Observation
from lemmse.index.images.stack import Images
from lemmse.index.physics import InverseProblem

__all__ = ["NO_SCORE", "Score", "image_score", "read_once"]

_LEAST_ERROR = 1e-10
"""Least mean square error that is expected: 100 dB, the precision of an answer."""
_USUAL = 0.3
"""Usual size of a misfit, relative to the posterior variance, for images like the training images."""


@dataclass(frozen=True, slots=True)
class Score:
    """What the noisy image says about the error of its reconstruction."""

    expected_psnr_db: float | None
    """Expected PSNR over the observed pixels, in dB; None if unknown."""
    misfit: float | None
    """Mean square error beyond the posterior variance, in squared intensities; None if unknown."""


NO_SCORE = Score(None, None)
"""The score of an image about which nothing is known."""


def image_score(
    arrays: Mapping[str, NDArray[np.float32]],
    observation: Observation,
    once: NDArray[np.bool_],
    problem: InverseProblem,
    noise_error: float = 0.0,
) -> Score:
    """Return the score of a reconstruction.

    Parameters
    ----------
    arrays : mapping of str to float32, (D·H·W, C)
        "image", "variance", V, and "response", D.
    observation : Observation
        The measurement.
    once : bool, (D, H, W)
        Pixels that no patch reads twice.
    problem : InverseProblem
        The inverse problem of the index, which knows the noise of y up to its σ.
    noise_error : float
        Standard error of the mean of s², in squared intensities, if s was estimated.

    References
    ----------
    C. M. Stein, Estimation of the mean of a multivariate normal distribution, Annals of Statistics 9 (1981).
    """
    y = observation.y
    image, variance, response = (
        arrays[name].astype(np.float64).reshape(y.shape) for name in ("image", "variance", "response")
    )
    s = observation.sigma * np.sqrt(np.broadcast_to(problem.variances(y.shape[3]), y.shape))
    observed = np.isfinite(s)
    used = observed & once[..., None]
    if not used.any():
        return NO_SCORE
    terms = (np.square(image - y) - np.square(s) + 2 * response - variance)[used]
    misfit, model = float(terms.mean()), float(variance[observed].mean())
    independent = terms.size / problem.correlated_pixels
    deviation = math.hypot(float(terms.std()) / math.sqrt(independent), noise_error)
    error = model + _trust(model, misfit, deviation) * misfit
    return Score(-10 * math.log10(max(error, _LEAST_ERROR)), misfit)


def _trust(model: float, misfit: float, deviation: float) -> float:
    """Return the share of a misfit of this standard deviation that is to be expected, in [0, 1]."""
    if not deviation:
        return 1.0
    trust = 1 / (1 + (deviation / (_USUAL * model)) ** 2) if model else 0.0
    return max(trust, 1 - (deviation / misfit) ** 2) if misfit > 0 else trust


def read_once(shape: Sequence[int], sides: Sequence[int], boundary: str) -> NDArray[np.bool_]:
    """Return which pixels no patch with sides of these lengths reads twice, an array of this shape.

    Examples
    --------
    >>> read_once((5, 5), (3, 3), "reflect").astype(int)[0]
    array([1, 0, 1, 0, 1])
    """
    each = (_read_once(length, side, boundary) for length, side in zip(shape, sides, strict=True))
    return reduce(np.logical_and.outer, each)


def _read_once(length: int, p: int, boundary: str) -> NDArray[np.bool_]:
    numbers = np.arange(length)
    read = Images.stack([numbers.reshape(-1, 1, 1)]).patches(numbers, p, boundary)[:, ::p]  # (length, p)
    twice = (read[:, :, None] == read[:, None, :]).sum(axis=2) > 1
    return ~np.isin(numbers, read[twice])
