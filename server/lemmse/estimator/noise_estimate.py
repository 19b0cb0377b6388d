"""The standard deviation of white noise in an image, by maximum composite likelihood.

log p(u | σ), the log density of a noisy patch, is known for every σ. The estimate is the σ that maximises its
sum over patches spread over the image. Patches that overlap are not independent: the sum is a composite
likelihood, whose maximum is consistent, and whose standard error follows from the scatter of the scores of
patches and the curvature of the sum (Godambe's sandwich). Patches that the prior does not describe, whose
scores are far from those of the others, have less weight (Huber's).

As a function of σ^(−2/3) the log likelihood of Gaussian noise has no third derivative at its maximum, which
a parabola through three points therefore finds (the cube root of a precision is nearly normal: Wilson and
Hilferty, 1931).

Nothing here knows an index: densities come from a function.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

__all__ = [
    "LARGEST",
    "LEAST",
    "LogDensity",
    "NoiseLevel",
    "maximum_likelihood",
    "median_sigma",
    "outlier_weights",
    "overlaps",
    "spread",
]

LEAST = 1 / 512
"""Least σ that is estimated: half a step of 8 bits. An estimate of it means that no noise was found."""
LARGEST = 8.0
"""Largest σ that is estimated."""

_COARSE = 2.0
"""Ratio of two σ of the search for the maximum."""
_FINE = 1.25
"""Ratio of two σ of the parabola at the maximum."""
_ROUNDS = 3
"""Largest number of parabolas."""
_OUTLYING = 3.0
"""Robust standard deviations from the median score from which a patch has less weight."""
_COARSE_SHARE = 4
"""The search uses one in so many patches."""
_MAD = 0.6745
"""Median of the absolute value of a standard normal number."""


class LogDensity(Protocol):
    """The log density of the patches of a sample."""

    def __call__(self, sigma: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
        """Return the log densities of some of the patches for noise of σ, (1,) or for each channel, (C,)."""
        ...


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """An estimate."""

    sigma: NDArray[np.float64]
    """Standard deviation of the noise, (1,) or for each channel, (C,)."""
    error: NDArray[np.float64]
    """Standard error of each, at most the estimate itself."""


def median_sigma(y: NDArray[np.float64], observed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the median estimate of σ for each channel, (C,), NaN where nothing can be compared.

    It is the median absolute diagonal Haar coefficient of blocks of 2×2 pixels, which is too large where the
    image has details.

    Parameters
    ----------
    y : float64, (D, H, W, C)
        The noisy image, D = 1, or volume.
    observed : bool, (D, H, W, C)
        Where it was observed.

    References
    ----------
    D. L. Donoho, I. M. Johnstone, Ideal spatial adaptation by wavelet shrinkage, Biometrika 81 (1994).
    """
    _, height, width, channels = y.shape
    even = height - height % 2, width - width % 2
    corners = [np.s_[:, i : even[0] : 2, j : even[1] : 2] for i in (0, 1) for j in (0, 1)]
    a, b, c, d = (y[corner] for corner in corners)
    whole = np.logical_and.reduce([observed[corner] for corner in corners])
    coefficient = np.abs(a - b - c + d) / 2
    medians = [
        np.median(coefficient[..., k][whole[..., k]]) if whole[..., k].any() else math.nan
        for k in range(channels)
    ]
    return np.array(medians) / _MAD


def spread(
    bad: NDArray[np.bool_], sides: Sequence[int], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return patches spread over an image, of those that are wholly inside it: one for each cell of a grid.

    Of a cell it is the one with the fewest bad numbers; cells of which it is bad by more than half are left
    out.

    Parameters
    ----------
    bad : bool, (D, H, W, C)
        Numbers of the image, D = 1, or of the volume that are of no use.
    sides : (int, int, int)
        Planes, rows and columns of the patches.
    count : int
        About how many patches, >= 1.

    Returns
    -------
    plane, row and column of the centre of each patch, (N, 3), and its number of bad numbers, (N,)
    """
    of_patch = bad.sum(axis=3)  # by the first corner
    for axis, side in enumerate(sides):
        of_patch = sliding_window_view(of_patch, side, axis).sum(axis=-1)
    edges = [
        np.linspace(0, length, number + 1).astype(np.int64).tolist()
        for length, number in zip(of_patch.shape, _cells(of_patch.shape, count), strict=True)
    ]
    centres, numbers = [], []
    for ranges in product(*(pairwise(own) for own in edges)):
        cell = of_patch[tuple(slice(*ends) for ends in ranges)]
        middle = tuple(length // 2 for length in cell.shape)
        best = middle if cell[middle] == cell.min() else np.unravel_index(cell.argmin(), cell.shape)
        centres.append(
            [ends[0] + own + side // 2 for ends, own, side in zip(ranges, best, sides, strict=True)]
        )
        numbers.append(cell[best])
    kept = 2 * np.array(numbers) <= math.prod(sides) * bad.shape[3]
    return np.array(centres, np.int64)[kept], np.array(numbers, np.int64)[kept]


def _cells(shape: Sequence[int], count: int) -> list[int]:
    """Return the number of cells along each axis of a grid of about so many cells, which are nearly cubes.

    Examples
    --------
    >>> _cells((1, 40, 10), 16), _cells((3, 40, 40), 300)
    ([1, 8, 2], [1, 17, 18])
    """
    cells, left, volume = [], count, math.prod(shape)
    for axis, length in enumerate(shape):
        side = (volume / left) ** (1 / (len(shape) - axis))  # of a cell along the axes that are left
        cells.append(min(length, max(1, round(length / side))))
        left, volume = max(1.0, left / cells[-1]), volume // length
    return cells


def maximum_likelihood(
    log_density: LogDensity,
    start: NDArray[np.float64],
    centres: NDArray[np.int64],
    sides: Sequence[int],
) -> NoiseLevel:
    """Return the σ that maximises the composite likelihood, with its standard error.

    Parameters
    ----------
    log_density : callable
        The log density of the N patches.
    start : float64, (1,) or (C,)
        Where to begin. One σ is searched for from there; several must be within a quarter.
    centres : int64, (N, 3)
        Plane, row and column of each patch, which say how patches overlap.
    sides : (int, int, int)
        Planes, rows and columns of the patches.
    """
    sigma = np.clip(start, LEAST, LARGEST)
    if len(sigma) == 1:
        sigma = _search(log_density, float(sigma[0]), len(centres))
    overlap = overlaps(centres, sides)
    for _ in range(_ROUNDS):
        middle = log_density(sigma, slice(None))
        found, errors = np.empty_like(sigma), np.empty_like(sigma)
        for k in range(len(sigma)):
            factor = np.where(np.arange(len(sigma)) == k, _FINE, 1.0)
            high, low = log_density(sigma * factor, slice(None)), log_density(sigma / factor, slice(None))
            weight = outlier_weights(high - low)
            means = (float(np.average(one, weights=weight)) for one in (low, middle, high))
            found[k] = sigma[k] * _step(*means)
            errors[k] = min(1.0, _relative_error(low, middle, high, weight, overlap))
        moved = np.abs(np.log(found / sigma)).max()
        sigma = np.clip(found, LEAST, LARGEST)
        if moved <= math.log(_FINE):
            break
    return NoiseLevel(sigma, sigma * errors)


def overlaps(centres: NDArray[np.int64], sides: Sequence[int]) -> NDArray[np.float64]:
    """Return the share of a patch that two patches with these sides have in common, (N, N)."""
    apart = np.abs(centres[:, None] - centres) / sides
    shares: NDArray[np.float64] = np.clip(1 - apart, 0, None).prod(axis=2)
    return shares


def _search(log_density: LogDensity, start: float, count: int) -> NDArray[np.float64]:
    """Return the best σ of a coarse grid, by a parabola through its neighbours, from some of the patches."""
    some = slice(None, None, _COARSE_SHARE if count >= 16 * _COARSE_SHARE else 1)
    known: dict[float, float] = {}

    def value(sigma: float) -> float:
        if not LEAST <= sigma <= LARGEST:
            return -math.inf
        if sigma not in known:
            known[sigma] = float(log_density(np.array([sigma]), some).mean())
        return known[sigma]

    sigma = start
    while (best := max((sigma, sigma / _COARSE, sigma * _COARSE), key=value)) != sigma:
        sigma = best
    low, middle, high = (value(sigma * _COARSE**k) for k in (-1, 0, 1))
    if math.isfinite(low) and math.isfinite(high):
        sigma *= _step(low, middle, high, _COARSE)
    return np.array([sigma])


def _step(low: float, middle: float, high: float, ratio: float = _FINE) -> float:
    """Return where the parabola in σ^(−2/3) through values at σ / ratio, σ, σ · ratio is highest, over σ.

    It is at most the square of the ratio away, and as far as that if they have no maximum.
    """
    a, b = ratio ** (2 / 3), ratio ** (-2 / 3)  # of σ / ratio and σ · ratio; that of σ is 1
    first, second = (low - middle) / (a - 1), (middle - high) / (1 - b)
    curvature = (first - second) / (a - b) * 2
    most = ratio**2
    if curvature >= 0:
        return most if high > low else 1 / most
    # The slope at (a + 1) / 2 is `first`.
    top = (a + 1) / 2 - first / curvature
    return float(np.clip(top, most ** (-2 / 3), most ** (2 / 3)) ** -1.5)


def outlier_weights(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of patches, (N,), from their scores in any unit.

    References
    ----------
    P. J. Huber, Robust estimation of a location parameter, Annals of Mathematical Statistics 35 (1964).
    """
    distance = np.abs(score - np.median(score))
    most = _OUTLYING * float(np.median(distance)) / _MAD
    if not most:
        return np.ones_like(score)
    return np.divide(most, distance, out=np.ones_like(score), where=distance > most)


def _relative_error(
    low: NDArray[np.float64],
    middle: NDArray[np.float64],
    high: NDArray[np.float64],
    weight: NDArray[np.float64],
    overlap: NDArray[np.float64],
) -> float:
    """Return the standard error of log σ from the log densities of the patches at σ / ratio, σ, σ · ratio.

    Scores of patches are correlated as far as they overlap. Their scatter is at least that of noise alone,
    which the curvature gives: few patches may scatter less by chance.
    """
    step = math.log(_FINE)
    curvature = -float(np.average(low - 2 * middle + high, weights=weight)) / step**2
    if curvature <= 0:
        return math.inf
    score = (high - low) / (2 * step)
    score = weight * (score - np.average(score, weights=weight))
    scatter = max(float(score @ overlap @ score), curvature * float(weight @ overlap @ weight))
    return math.sqrt(scatter) / curvature / float(weight.sum())
