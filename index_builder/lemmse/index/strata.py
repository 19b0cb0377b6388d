"""Strata: the positions whose patches carry the same noise.

The noise in the patch at m has covariance σ² Q_m Q_mᵀ, where Q_m is the part of the pre-inverse B that the
patch sees. Keys and queries are whitened with it, so that the estimator meets white noise only, whatever B:

    B = I              one stratum, nothing to do
    B a convolution    one stratum, S = Q Qᵀ, patches are multiplied by a matrix W with W S Wᵀ = I
    B = diag(d)        one stratum for each pattern that d has in a patch; patches are divided by it, and
                       where it is zero nothing was observed

With zeros in d (a mask) the Gaussian of a key lives on the observed pixels only, and a key counts for a query
only if both observe the same ones: a query belongs to the stratum of its own pattern. Without zeros every key
counts for every query, each with the density of its own stratum.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lemmse.index.errors import InvalidArgument
from lemmse.index.images import Images
from lemmse.index.physics import InverseProblem

__all__ = ["Strata", "find_strata"]


@dataclass(frozen=True)
class Strata:
    """The strata of an index."""

    scale: NDArray[np.float64]
    """Diagonal of B in the patches of each stratum, (S, P); 1 where B is no diagonal."""
    whitener: NDArray[np.float64] | None
    """W with W S Wᵀ = I, (P, P), where B is a convolution."""

    def __len__(self) -> int:
        """Number of strata, S."""
        return len(self.scale)

    @cached_property
    def exclusive(self) -> bool:
        """Whether a query finds its keys in one stratum only, that of its own pattern."""
        return bool((self.scale == 0).any())

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """Rank of Q_m Q_mᵀ in each stratum: the pixels that were observed, (S,)."""
        rank: NDArray[np.int64] = (self.scale != 0).sum(axis=1)
        return rank

    @cached_property
    def log_pdet(self) -> NDArray[np.float64]:
        """The term log pdet(Q_m Q_mᵀ) of each stratum, (S,)."""
        log_det: NDArray[np.float64] = 2 * np.log(np.where(self.scale == 0, 1.0, self.scale)).sum(axis=1)
        if self.whitener is not None:
            log_det = log_det - 2 * np.linalg.slogdet(self.whitener)[1]
        return log_det

    @cached_property
    def _divisor(self) -> NDArray[np.float64]:
        return np.where(self.scale == 0, np.inf, self.scale)

    def whiten(self, patches: NDArray[np.floating], stratum: int) -> NDArray[np.float32]:
        """Patches with white noise of standard deviation σ where it was σ² Q_m Q_mᵀ, (n, P)."""
        white: NDArray[np.float64] = patches / self._divisor[stratum]
        if self.whitener is not None:
            white = white @ self.whitener.T
        return white.astype(np.float32)

    def whiteness_error(self, covariance: NDArray[np.float64]) -> float:
        """Largest entry of W S Wᵀ − I for another S, (P, P): how far whitening it with this W is off."""
        if self.whitener is None:
            return 0.0
        return float(np.abs(self.whitener @ covariance @ self.whitener.T - np.eye(len(covariance))).max())

    def of(self, scale: NDArray[np.float64]) -> NDArray[np.int64]:
        """The stratum of each pattern of the diagonal of B, (n, P); −1 where there is none."""
        return np.array([self._number.get(row.tobytes(), -1) for row in scale], np.int64)

    @cached_property
    def _number(self) -> dict[bytes, int]:
        return {row.tobytes(): number for number, row in enumerate(self.scale)}


def find_strata(
    problem: InverseProblem, images: Images[np.float32], n: NDArray[np.int64], p: int, boundary: str
) -> tuple[Strata, NDArray[np.int64], float]:
    """Tell the strata of the training patches at positions n.

    Returns
    -------
    the strata, the stratum of each position (len(n),), the condition number of S (1 without a convolution)

    Raises
    ------
    InvalidArgument
        B is a convolution, and the images differ in size or the noise cannot be whitened.
    """
    channels = images.pixels.shape[1]
    p_length = p * p * channels
    sizes, size_of = np.unique(images.sizes, axis=0, return_inverse=True)
    shapes = [(int(height), int(width), channels) for height, width in sizes]
    if problem.white:
        return Strata(np.ones((1, p_length)), None), np.zeros(len(n), np.int64), 1.0
    if problem.stationary:
        if len(shapes) > 1:
            raise InvalidArgument(
                "pre-inverse",
                f"expected images of one size for {problem.pre_inverse}, got {len(shapes)} sizes; crop them",
            )
        white = problem.whitening(shapes[0], p)
        return Strata(np.ones((1, p_length)), white.matrix), np.zeros(len(n), np.int64), white.condition
    # A pattern for each position of each size; equal patterns are one stratum.
    diagonals = [Images.stack([problem.scale(shape)]) for shape in shapes]
    patterns = [d.patches(np.arange(d.positions), p, boundary) for d in diagonals]
    first = np.cumsum([0, *(len(rows) for rows in patterns)])
    image = images.locate(n)[:, 0]
    row = first[size_of[image]] + n - images.first[image]
    used, row = np.unique(row, return_inverse=True)
    scale, number = np.unique(np.concatenate(patterns)[used], axis=0, return_inverse=True)
    return Strata(scale, None), number.reshape(-1)[row], 1.0
