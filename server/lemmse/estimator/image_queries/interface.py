"""The interface of the query patches of an image, and the posterior of each of its pixels."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Posterior, PosteriorSums

__all__ = ["ImageQueries"]


class ImageQueries(Protocol):
    """The query patches of one image, one for each pixel."""

    @property
    def pixels(self) -> int:
        """Number of pixels, D·H·W."""
        ...

    @property
    def work(self) -> int:
        """Number of pairs of a query and a distinct key that counts for it, doubled for weighted products."""
        ...

    @property
    def sigma(self) -> float | None:
        """Standard deviation √(σ² + τ²) of query minus key; None if it is not the same everywhere."""
        ...

    @property
    def gaussian_share(self) -> float:
        """Weight γ of the mixture of Gaussians in the prior."""
        ...

    def sums(self, n: NDArray[np.int64], spec: SumSpec) -> PosteriorSums:
        """Return the posterior sums over keys and Gaussians for the pixels at positions n.

        Weights are parts of the density of the query patch: each of the M training patches that count has the
        prior weight (1 − γ) / M.
        """
        ...

    def range_of_mean(self, n: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return bounds of the mean of the targets at positions n, for any weights, (Q, C) each.

        It is a weighted mean of the targets of the keys and of the mean under the Gaussians.
        """
        ...

    def clean(self, posterior: Posterior, n: NDArray[np.int64]) -> Posterior:
        """Return the posterior of the clean pixels at positions n, given the posterior of the targets.

        With a bandwidth τ, a key v stands for a Gaussian centred at it: given u, with noise of standard
        deviation s, its mean is (τ² u + s² v) / (s² + τ²) and its variance τ² s² / (s² + τ²).
        """
        ...

    def pull_back(self, n: NDArray[np.int64], directions: Tensor, cancelled: Cancel) -> Tensor:
        """Return the derivative of a·m with respect to the patch of y, for patches at positions n, (Q, P).

        m is the mean of the clean patch, as in `clean`, and a the direction of the patch, float64, (Q, P).
        The keys must be clean patches, A = B = I.
        """
        ...
