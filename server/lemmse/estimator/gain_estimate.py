"""The gain and the dark σ of Poisson-Gaussian noise in an image, by maximum composite likelihood.

A patch whose clean mean is m has noise of variance gain · m + σ² on average, so that its log density is
nearly that for white noise, which is known for every σ. The estimate is the pair of gain and σ² with the
largest sum over patches. Weights and standard errors are as in `noise_estimate`, for both numbers together.

Nothing here knows an index: densities come as a table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.results import NoiseEstimate
from lemmse.estimator.noise_estimate import LARGEST, LEAST, outlier_weights, overlaps

__all__ = ["SIGMAS", "PatchDensities", "most_likely_gain"]

SIGMAS = np.geomspace(LEAST / 8, LARGEST, 56)
"""The σ at which the log density of patches is tabulated."""
_Known = tuple[float | None, float | None]
"""The gain and σ², None for what is to be estimated."""
_STEP = math.log(SIGMAS[1] / SIGMAS[0])
_SIDE = 15
"""Number of values of the gain, and of σ², that are compared at once."""
_OCTAVES = 14.0, 4.0
"""The search spans so many octaves below and above the variance of white noise; less counts as none."""
_ZOOMS = 5
"""Number of times that the search is narrowed to two steps on either side of the best."""
_ROUNDS = 2
"""Number of times that the weights of patches are determined."""
_LEAST_MEAN = 1e-3
"""Mean intensity that is taken where it is less."""


@dataclass(frozen=True, slots=True)
class PatchDensities:
    """The log densities of N patches as functions of log σ: cubic polynomials between those of `SIGMAS`."""

    table: NDArray[np.float64]
    """The log densities, (N, len(SIGMAS))."""

    def at(self, log_sigma: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density of each patch, for log σ of shape (…, N)."""
        place = np.clip((log_sigma - math.log(SIGMAS[0])) / _STEP, 1.0, len(SIGMAS) - 2.001)
        whole = place.astype(np.int64)
        t = place - whole
        rows = np.arange(len(self.table))
        a, b, c, d = (self.table[rows, whole + k] for k in (-1, 0, 1, 2))
        # The polynomial through the four values around.
        return (
            -t * (t - 1) * (t - 2) / 6 * a
            + (t + 1) * (t - 1) * (t - 2) / 2 * b
            - (t + 1) * t * (t - 2) / 2 * c
            + (t + 1) * t * (t - 1) / 6 * d
        )


def most_likely_gain(
    densities: PatchDensities,
    mean: NDArray[np.float64],
    centres: NDArray[np.int64],
    sides: Sequence[int],
    white: float,
    *,
    gain: float | None = None,
    sigma: float | None = None,
) -> NoiseEstimate:
    """Return the gain and the dark σ that maximise the composite likelihood, with their standard errors.

    Parameters
    ----------
    densities : PatchDensities
        The log densities of N patches.
    mean : float64, (N,)
        The mean intensity of each clean patch, or an estimate of it.
    centres : int64, (N, 3)
        Plane, row and column of each patch, which say how patches overlap.
    sides : (int, int, int)
        Planes, rows and columns of the patches.
    white : float
        The σ that is best for white noise, from which the search begins.
    gain, sigma : float, optional
        What is known; it is returned with an error of 0.
    """
    mean = np.maximum(mean, 0.0)
    known = gain, None if sigma is None else sigma**2
    scales = white**2 / max(float(mean.mean()), _LEAST_MEAN), white**2
    weight = np.ones(len(mean))
    for _ in range(_ROUNDS):
        best = _search(densities, mean, weight, known, scales)
        log_sigma = 0.5 * np.log(best[0] * mean + best[1] + LEAST**2 / 64)
        low, middle, high = (densities.at(log_sigma + k * _STEP) for k in (-1, 0, 1))
        weight = outlier_weights(high - low)
    gain_found, square = _at_least(best, float(mean.mean()), known)
    variance = np.exp(2 * log_sigma)
    score = weight * (high - low) / (2 * _STEP) / (2 * variance)  # by the variance
    information = -weight * (low - 2 * middle + high) / _STEP**2 / (4 * variance**2)
    covariance = _covariance(score, information, mean, overlaps(centres, sides), known)
    dark = math.sqrt(square)
    errors = [math.sqrt(max(0.0, one)) for one in covariance.diagonal()]
    dark_error = 0.0 if sigma is not None else math.sqrt(square + errors[1]) - dark
    gain_error = min(errors[0], gain_found)
    return NoiseEstimate((dark if sigma is None else sigma,), (dark_error,), gain_found, gain_error)


def _at_least(best: tuple[float, float], mean: float, known: _Known) -> tuple[float, float]:
    """Return the gain and σ², so that there is some noise: at the mean intensity that of the least σ."""
    if best[0] * mean + best[1] >= LEAST**2 or None not in known:
        return best
    return (best[0], LEAST**2) if known[1] is None else (LEAST**2 / max(mean, _LEAST_MEAN), best[1])


def _search(
    densities: PatchDensities,
    mean: NDArray[np.float64],
    weight: NDArray[np.float64],
    known: _Known,
    scales: tuple[float, float],
) -> tuple[float, float]:
    """Return the best gain and σ² of a grid that is narrowed step by step; 0 for one that is negligible."""
    spans = [(math.log2(scale) - _OCTAVES[0], math.log2(scale) + _OCTAVES[1]) for scale in scales]
    ends = [span[0] for span in spans]
    best = [0.0, 0.0]
    for _ in range(_ZOOMS):
        gains, squares = (
            np.exp2(np.linspace(*span, _SIDE)) if one is None else np.array([one])
            for one, span in zip(known, spans, strict=True)
        )
        variance = gains[:, None, None] * mean + squares[:, None] + LEAST**2 / 64  # (gains, squares, N)
        total = densities.at(0.5 * np.log(variance)) @ weight
        i, j = np.unravel_index(total.argmax(), total.shape)
        best = [float(gains[i]), float(squares[j])]
        for k in range(2):
            step = 2 * (spans[k][1] - spans[k][0]) / (_SIDE - 1)
            if known[k] is None:
                spans[k] = max(ends[k], math.log2(best[k]) - step), math.log2(best[k]) + step
    for k in range(2):
        if known[k] is None and math.log2(best[k]) <= ends[k] + 1:
            best[k] = 0.0
    return best[0], best[1]


def _covariance(
    score: NDArray[np.float64],
    information: NDArray[np.float64],
    mean: NDArray[np.float64],
    overlap: NDArray[np.float64],
    known: _Known,
) -> NDArray[np.float64]:
    """Return the covariance of the errors of gain and σ² (Godambe), 0 for what is known, (2, 2)."""
    columns = np.stack([mean, np.ones_like(mean)], axis=1)  # derivatives of the variance
    free = [k for k in range(2) if known[k] is None]
    part = columns[:, free]
    inverse = np.linalg.pinv(part.T @ (information[:, None] * part), hermitian=True)
    scores = score[:, None] * part
    scores = scores - scores.mean(axis=0)
    covariance = np.zeros((2, 2))
    covariance[np.ix_(free, free)] = inverse @ (scores.T @ overlap @ scores) @ inverse
    return covariance
