"""The query patches of an image with a precision for each pixel, which needs clean keys (A = B = I)."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.image_queries.bandwidth import blended
from lemmse.estimator.image_queries.prior import covariance, mixed_sums, range_of_mean
from lemmse.estimator.observation import Observation
from lemmse.estimator.queries import Queries
from lemmse.estimator.sum_spec import EXACT, SumSpec
from lemmse.estimator.sums import Posterior, PosteriorSums
from lemmse.index.storage.picture_record import Refinement

__all__ = ["WeightedQueries"]


class WeightedQueries:
    """The query patches of y with a precision for each pixel and channel, for clean keys."""

    sigma = None

    def __init__(self, backend: Backend, observation: Observation, refinement: Refinement) -> None:
        self._backend = backend
        self.gaussian_share = refinement.gaussian_share
        self.pixels = observation.pixels
        tau2 = refinement.bandwidth**2
        precision = observation.precision / (1 + tau2 * observation.precision)  # (D, H, W, C)
        share = tau2 * precision
        self._y, self._precision = backend.cut(observation.y), backend.cut(precision)
        self._share, self._variance = backend.cut(share), backend.cut(tau2 * (1 - share))

    @property
    def work(self) -> int:
        """Twice the number of pairs of a query and a distinct key: weighted products are twice as long."""
        if self.gaussian_share == 1:
            return 0
        return int(2 * self.pixels * self._backend.index.manifest.distinct)

    def sums(self, n: NDArray[np.int64], spec: SumSpec) -> PosteriorSums:
        """Return the sums over keys and Gaussians, see `ImageQueries`."""
        queries = self._queries(n)
        return mixed_sums(
            self.gaussian_share,
            lambda: self._key_sums(queries, spec),
            lambda: self._backend.gaussians.sums(queries, spec),
        )

    def range_of_mean(self, n: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest mean of the targets, see `ImageQueries`."""
        backend = self._backend
        return range_of_mean(
            backend, self.gaussian_share, len(n), lambda: backend.gaussians.sums(self._queries(n), EXACT)
        )

    def _queries(self, n: NDArray[np.int64]) -> Queries:
        return Queries(self._y.at(n), self._precision.at(n))

    def _key_sums(self, queries: Queries, spec: SumSpec) -> PosteriorSums:
        """Return the sums over all keys."""
        device = self._backend.device
        some_observed = (queries.precision > 0).any(dim=1).cpu().numpy()
        groups = (np.flatnonzero(some_observed), spec), (np.flatnonzero(~some_observed), spec.exact())
        joined = PosteriorSums.join(
            [
                self._backend.sums(queries.rows(torch.from_numpy(rows).to(device)), how.rows(rows))
                for rows, how in groups
                if len(rows)
            ]
        )
        order = torch.from_numpy(np.argsort(np.concatenate([rows for rows, _ in groups]))).to(device)
        log_keys = math.log(self._backend.index.manifest.keys)
        return joined.take(order).shift(_log_normalizers(queries) - log_keys)

    def clean(self, posterior: Posterior, n: NDArray[np.int64]) -> Posterior:
        """Return the posterior of the clean pixels, see `ImageQueries`."""
        y, share, variance = self._y, self._share, self._variance
        return blended(
            posterior,
            lambda: (y.centres(n), share.centres(n), variance.centres(n)),
            lambda: (y.at(n), share.at(n), variance.at(n)),
        )

    def pull_back(self, n: NDArray[np.int64], directions: Tensor, cancelled: Cancel) -> Tensor:
        """Return the derivative of a·m with respect to the patch of y, see `ImageQueries`."""
        backend, queries = self._backend, self._queries(n)
        share = self._share.at(n)
        product = covariance(
            backend,
            queries,
            (1 - share) * directions,
            self.gaussian_share,
            _log_normalizers(queries),
            cancelled,
        )
        return queries.precision * product + share * directions


def _log_normalizers(queries: Queries) -> Tensor:
    """Return the log of the normalizing constants of the densities, with a precision for each pixel, (Q,)."""
    precision = queries.precision
    return 0.5 * torch.where(precision > 0, precision / (2 * math.pi), 1.0).log().sum(dim=1)
