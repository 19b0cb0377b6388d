"""The query patches of an image with noise of one σ.

It is white or of the spectrum of the index; the pre-inverse colours it, and the strata whiten it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.adaptation import MOST_PATCHES, adapt
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.gaussians import Gaussians
from lemmse.estimator.image_queries.bandwidth import blended
from lemmse.estimator.image_queries.image_shape import require_same_noise, strata_of
from lemmse.estimator.image_queries.prior import covariance, mixed_sums, range_of_mean, require_prior
from lemmse.estimator.observation import Observation
from lemmse.estimator.queries import Queries
from lemmse.estimator.stratum_sums import ColouredQueries, log_normalizer
from lemmse.estimator.sum_spec import EXACT, SumSpec
from lemmse.estimator.sums import Outputs, Posterior, PosteriorSums
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["WhitenedQueries", "joint_sums"]


class WhitenedQueries:
    """The query patches of z = B y with noise of one σ, which the strata of the index whiten.

    Parameters
    ----------
    backend : Backend
        The keys.
    observation : Observation
        An observation with one σ.
    refinement : Refinement
        The prior.
    gaussians : Gaussians, optional
        Gaussians in place of those of the index.

    Raises
    ------
    InvalidArgument
        For an image of this size, B yields noise or patterns other than those of the index; or the index has
        no such prior.
    """

    def __init__(
        self,
        backend: Backend,
        observation: Observation,
        refinement: Refinement = PAPER,
        gaussians: Gaussians | None = None,
    ) -> None:
        require_prior(backend, refinement)
        self._backend, self._others = backend, gaussians
        self._variance = float(observation.sigma) ** 2
        tau2 = refinement.bandwidth**2
        self.sigma = math.hypot(float(observation.sigma), refinement.bandwidth)
        self.gaussian_share = refinement.gaussian_share
        self._precision = 1 / self.sigma**2
        self._share = tau2 * self._precision
        require_same_noise(backend.index, observation.y.shape[1:])
        z = np.stack([backend.index.problem.pre_invert(plane) for plane in observation.y])
        self._z, self._channels = backend.cut(z), z.shape[-1]
        self._stratum = strata_of(backend, observation.y.shape)
        self._kept: _GaussianSums | None = None

    @property
    def pixels(self) -> int:
        """Number of pixels, D·H·W."""
        return len(self._stratum)

    @property
    def work(self) -> int:
        """Number of pairs of a query and a distinct key that counts for it."""
        if self.gaussian_share == 1:
            return 0
        return int(self._backend.distinct_keys_that_count(self._stratum).sum())

    def queries(self, n: NDArray[np.int64]) -> ColouredQueries:
        """Return the patches of z at positions n."""
        return ColouredQueries(self._z.at(n), self._stratum[n], self._precision)

    def sums(self, n: NDArray[np.int64], spec: SumSpec) -> PosteriorSums:
        """Return the sums over keys and Gaussians, see `ImageQueries`."""
        queries = self.queries(n)
        return self._mixed(queries, spec, lambda: self._gaussian_sums_at(n, queries, spec))

    def sums_of(self, queries: ColouredQueries, spec: SumSpec) -> PosteriorSums:
        """Return the sums for queries that may be of other images, of the same σ and the same prior."""
        return self._mixed(queries, spec, lambda: self._gaussian_sums(queries, spec))

    def _mixed(
        self, queries: ColouredQueries, spec: SumSpec, gaussian_sums: Callable[[], PosteriorSums]
    ) -> PosteriorSums:
        backend = self._backend

        def key_sums() -> PosteriorSums:
            log_keys = torch.from_numpy(np.log(backend.keys_that_count(queries.stratum)))
            return backend.sums(queries, spec).shift(-log_keys.to(backend.device))

        return mixed_sums(self.gaussian_share, key_sums, gaussian_sums)

    def _gaussian_sums_at(
        self, n: NDArray[np.int64], queries: ColouredQueries, spec: SumSpec
    ) -> PosteriorSums:
        """Return the sums over the Gaussians at positions n, ascending.

        The last ones are kept: hybrid asks for some of a block of pixels again, and for their mean.
        """
        kept, outputs = self._kept, spec.outputs
        if kept is None or kept.outputs != outputs or outputs.bounds or not kept.has(n):
            kept = self._kept = _GaussianSums(n, outputs, self._gaussian_sums(queries, spec))
        return kept.at(n)

    def _gaussian_sums(self, queries: ColouredQueries, spec: SumSpec) -> PosteriorSums:
        sums = self._gaussians.sums(self._whitened(queries), spec)
        return sums.shift(_log_jacobian(self._backend))

    @property
    def _gaussians(self) -> Gaussians:
        return self._others or self._backend.gaussians

    def adapted(self, cancelled: Cancel) -> Gaussians:
        """Return the Gaussians, adapted to patches of the image; see `adaptation.adapt`."""
        n = np.linspace(0, self.pixels - 1, min(self.pixels, MOST_PATCHES)).astype(np.int64)
        mixture = adapt(self._gaussians, self._whitened(self.queries(n)), cancelled)
        return Gaussians(mixture, self._backend.centre, self._backend.device)

    def _whitened(self, queries: ColouredQueries) -> Queries:
        """Return the queries of the only stratum, whitened."""
        precision = torch.tensor(self._precision, dtype=torch.float64, device=queries.u.device)
        return Queries(self._backend.whitening.whiten(queries.u, 0), precision)

    def range_of_mean(self, n: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest mean of the targets, see `ImageQueries`."""

        def gaussian_sums() -> PosteriorSums:
            kept = self._kept
            if kept is None or not kept.has(n):
                return self._gaussian_sums(self.queries(n), EXACT)
            return kept.at(n)

        return range_of_mean(self._backend, self.gaussian_share, len(n), gaussian_sums)

    def clean(self, posterior: Posterior, n: NDArray[np.int64]) -> Posterior:
        """Return the posterior of the clean pixels, see `ImageQueries`.

        If the level is removed from the keys, the level of the query, whose noise is independent, is added.
        """
        strata, device = self._backend.index.strata, posterior.mean.device
        noise = self._backend.index.problem.variances(self._channels)  # in units of σ²
        variance = torch.tensor(self._share * self._variance * noise)
        if strata.constants is not None:
            level = self._backend.whitening.levels(self._z.at(n), 0)  # (Q, C)
            pixels = posterior.patch.shape[1] // self._channels
            posterior = replace(
                posterior,
                mean=posterior.mean + level,
                patch=posterior.patch + level.repeat(1, pixels),
            )
            level_variance = self._variance * torch.from_numpy(strata.level_variance)
            variance = variance + (1 - self._share) * level_variance
        elif not self._share:
            return posterior
        share, variance = torch.full_like(variance, self._share).to(device), variance.to(device)
        pixels = self._backend.index.manifest.patch_pixels
        return blended(
            posterior,
            lambda: (self._z.centres(n), share, variance),
            lambda: (self._z.at(n), share.repeat(pixels), variance.repeat(pixels)),
        )

    def pull_back(self, n: NDArray[np.int64], directions: Tensor, cancelled: Cancel) -> Tensor:
        """Return the derivative of a·m with respect to the patch of y, see `ImageQueries`."""
        backend, whitening = self._backend, self._backend.whitening
        of_keys = (1 - self._share) * directions
        log_norm = log_normalizer(backend.index.strata, 0, self._precision)
        queries = self._whitened(self.queries(n))
        product = covariance(backend, queries, of_keys, self.gaussian_share, log_norm, cancelled)
        product = self._precision * product + self._share * directions
        if backend.index.strata.constants is not None:  # the level of the query is a mean of its pixels
            level = whitening.levels(of_keys, 0)  # (Q, C)
            product += level.repeat(1, product.shape[1] // level.shape[1])
        return product


def joint_sums(images: Sequence[WhitenedQueries], spec: SumSpec) -> list[PosteriorSums]:
    """Return the posterior sums for all pixels of each of several images, by one sum over keys and Gaussians.

    The images have one σ and one prior.
    """
    parts = [image.queries(np.arange(image.pixels)) for image in images]
    return images[0].sums_of(ColouredQueries.join(parts), spec).split([len(part) for part in parts])


class _GaussianSums(NamedTuple):
    """Sums over the Gaussians for some pixels of an image."""

    n: NDArray[np.int64]
    """Positions of the pixels, ascending, (Q,)."""
    outputs: Outputs
    """What was summed."""
    sums: PosteriorSums
    """The sums, for Q queries."""

    def has(self, n: NDArray[np.int64]) -> bool:
        """Return whether all positions n are among those of the sums."""
        return bool(np.isin(n, self.n).all())

    def at(self, n: NDArray[np.int64]) -> PosteriorSums:
        """Return the sums at positions n."""
        return self.sums.take(torch.from_numpy(np.searchsorted(self.n, n)))


def _log_jacobian(backend: Backend) -> float:
    """Return the log of the density of patches over that of whitened patches, for one stratum."""
    return -0.5 * float(backend.index.strata.log_pdet[0])
