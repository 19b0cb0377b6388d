"""A mixture of Gaussians fitted to the training patches by expectation maximisation.

The mixture extends the prior beyond the training patches, along the directions in which similar patches vary.
The estimator can combine it with the training patches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lemmse.index.clustering import cells
from lemmse.index.patches.corpus import Corpus

__all__ = ["COMPONENTS", "Mixture", "fit_mixture"]

COMPONENTS = 200
"""Largest number of components."""
_PATCHES = 500
"""Number of sampled patches per component."""
_PATCHES_PER_AXIS = 4
"""Smallest number of sampled patches per axis of a component, for its covariance to be determined."""
_NUMBERS = 1 << 22
"""Largest total number of covariance entries; the time of the fit is proportional to it."""
_ITERATIONS = 6
_ROUNDING = 1e-5
"""Added to all variances, in squared intensities: about the variance of rounding to 8 bits."""
_BLOCK = 1 << 11
"""Number of patches processed at a time; their coordinates fit into the cache."""
_RESPONSIBLE = 1e-4
"""Smallest responsibility with which a patch contributes to a covariance."""
_NEGLIGIBLE = 1e-24
"""Responsibility below which a component is not evaluated for a patch in later iterations."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The mixture Σ_g π_g N(μ_g, Σ_g) over patches of length P, each covariance given by R principal axes."""

    weights: NDArray[np.float32]
    """π, (G,)."""
    means: NDArray[np.float32]
    """μ, (G, P)."""
    variances: NDArray[np.float32]
    """Variances along the axes, (G, R)."""
    axes: NDArray[np.float32]
    """Orthonormal axes in columns, (G, P, R); R = P − C if levels are subtracted, else P."""

    @classmethod
    def fit(
        cls,
        patches: NDArray[np.float32],
        components: int,
        seed: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> "Mixture":
        """Return a mixture fitted by expectation maximisation, initialised by k-means.

        Parameters
        ----------
        patches : float32, (n, P)
            The sample of patches.
        components : int
            Number of components, G.
        seed : int
            Seed of the clustering.
        progress : callable
            Called as `progress(done, total)`.

        References
        ----------
        A. P. Dempster, N. M. Laird, D. B. Rubin, Maximum likelihood from incomplete data via the EM
        algorithm, Journal of the Royal Statistical Society B 39 (1977).

        Examples
        --------
        >>> points = np.random.default_rng(0).normal([[0, 0]] * 500 + [[9, 9]] * 500, [1, 0.1])
        >>> found = Mixture.fit(points.astype(np.float32), components=2, seed=0)
        >>> sorted(found.means[:, 0].round().astype(int).tolist())
        [0, 9]
        >>> np.sqrt(found.variances).round(1)
        array([[0.1, 1. ],
               [0.1, 1. ]], dtype=float32)
        """
        progress(0, _ITERATIONS)
        centroids = cells.fit(patches[: components * cells.SAMPLE_PER_CELL], components, seed)
        shares = np.zeros((len(patches), len(centroids)), np.float32)
        shares[np.arange(len(patches)), cells.nearest(patches, centroids)] = 1
        # The products are too small to be shared by threads, and idle threads of OpenBLAS would spin.
        with threadpool_limits(limits=1, user_api="blas"):
            mixture, _ = _most_likely(patches, shares)
            near = np.ones((len(patches), len(mixture.weights)), np.bool_)
            for done in range(_ITERATIONS):
                shares = mixture._responsibilities(patches, near)
                mixture, kept = _most_likely(patches, shares)
                near = shares[:, kept] > _NEGLIGIBLE
                progress(done + 1, _ITERATIONS)
        return mixture

    def _responsibilities(self, patches: NDArray[np.float32], near: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the responsibilities of the components for each patch, (n, G), 0 where `near` is False."""
        shares = np.full((len(patches), len(self.weights)), -np.inf, np.float32)
        constants = np.log(self.weights) - 0.5 * np.log(self.variances).sum(axis=1)
        whitening = self.axes / np.sqrt(self.variances)[:, None]
        offsets = np.einsum("gp,gpr->gr", self.means, whitening)
        for start in range(0, len(patches), _BLOCK):
            x, log_p = patches[start : start + _BLOCK], shares[start : start + _BLOCK]
            for g, (white, offset, constant) in enumerate(zip(whitening, offsets, constants, strict=True)):
                rows = np.flatnonzero(near[start : start + _BLOCK, g])
                z = x[rows] @ white
                z -= offset
                log_p[rows, g] = constant - 0.5 * np.einsum("nr,nr->n", z, z)
            log_p -= log_p.max(axis=1, keepdims=True)
            np.exp(log_p, out=log_p)
            log_p /= log_p.sum(axis=1, keepdims=True)
        return shares


def fit_mixture(
    corpus: Corpus, seed: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> Mixture | None:
    """Return the mixture for an index with one stratum, fitted to a sample of its keys.

    Returns
    -------
    Mixture or None
        None if P is too large, or if all keys are 0 after their level is removed.
    """
    limit, constants = _NUMBERS // corpus.length**2, corpus.strata.constants
    if not limit or (constants is not None and constants.shape[1] == corpus.length):
        return None
    enough = _PATCHES_PER_AXIS * corpus.length
    components = max(1, min(COMPONENTS, limit, len(corpus) // enough))
    count = min(len(corpus), components * max(_PATCHES, enough))
    rows = np.random.default_rng(seed).choice(len(corpus), count, replace=False)
    sample = corpus.keys(rows)
    if constants is None:
        return Mixture.fit(sample, components, seed, progress)
    # Keys of level 0 have a density only in the subspace orthogonal to the constants.
    subspace = corpus.strata.beside_constants.astype(np.float32)  # (P, R)
    mixture = Mixture.fit(sample @ subspace, components, seed, progress)
    return Mixture(mixture.weights, mixture.means @ subspace.T, mixture.variances, subspace @ mixture.axes)


def _most_likely(
    patches: NDArray[np.float32], shares: NDArray[np.float32]
) -> tuple[Mixture, NDArray[np.bool_]]:
    """Return the most likely mixture for responsibilities (n, G), and a mask of the components kept, (G,)."""
    counts = shares.sum(axis=0, dtype=np.float64)
    some = counts >= 1
    shares, counts = shares[:, some], counts[some]
    means = (shares.T @ patches / counts[:, None]).astype(np.float32)
    variances, axes = np.empty_like(means), np.empty((*means.shape, means.shape[1]), np.float32)
    for g, (mean, count) in enumerate(zip(means, counts, strict=True)):
        rows = np.flatnonzero(shares[:, g] > _RESPONSIBLE)
        deviation = patches[rows] - mean
        covariance = deviation.T @ (shares[rows, g, None] * deviation) / count
        covariance[np.diag_indices_from(covariance)] += _ROUNDING
        variances[g], axes[g] = np.linalg.eigh(covariance)
    weights = (counts / counts.sum()).astype(np.float32)
    return Mixture(weights, means, np.maximum(variances, _ROUNDING), axes), some
