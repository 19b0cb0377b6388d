"""LE-MMSE: a measurement as query patches, and the posterior of each of its pixels.

There are two kinds of noise: that of one σ, which the pre-inverse of an index colours and its strata whiten,
and that of a precision for each pixel, on clean keys.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.arguments import Measurement
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.method import Method
from lemmse.estimator.queries import Queries
from lemmse.estimator.sums import Posterior, PosteriorSums, Want
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["ImageQueries", "WhitenedQueries", "cut_queries"]

_WHITENESS = 1e-2
"""How far the whitened noise of an image of another size may be from white, in each entry of covariance."""


class ImageQueries(Protocol):
    """The query patches of one measurement."""

    @property
    def work(self) -> int:
        """Pairs of a query and a distinct key that counts for it."""
        ...

    @property
    def sigma(self) -> float | None:
        """Standard deviation of what queries and keys differ by, noise and bandwidth, where it is one."""
        ...

    @property
    def gaussian_share(self) -> float:
        """Share of the prior that the Gaussians have."""
        ...

    def sums(
        self,
        n: NDArray[np.int64],
        method: Method,
        want: Want,
        cancelled: Cancel,
        about: Tensor | None = None,
    ) -> PosteriorSums:
        """Sums over all that counts for the pixels at positions n, with their normalising constants.

        They are those of the density of the patches: each of the training patches has 1/M of what the
        Gaussians leave. Bounds, if wanted, are about the means `about`, (len(n), T).
        """
        ...

    def clean(self, posterior: Posterior, n: NDArray[np.int64]) -> Posterior:
        """The posterior of the clean pixels and patches at positions n, from that of the targets of the keys.

        With a bandwidth τ a key v stands for a Gaussian about it, which noise of standard deviation s in u
        leaves with the mean (τ² u + s² v) / (s² + τ²) and the variance τ² s² / (s² + τ²).
        """
        ...


def cut_queries(backend: Backend, measurement: Measurement, refinement: Refinement = PAPER) -> ImageQueries:
    """The query patches of a measurement, under the prior of a refinement.

    Raises
    ------
    InvalidArgument
        The index was built for another problem than the measurement's, or for images of another size.
    """
    if refinement.bandwidth:
        backend.require_clean_keys("bandwidth", "a bandwidth")
    if refinement.gaussian_share:
        backend.require_clean_keys("gaussian_share", "a share of Gaussians")
    if measurement.sigma is not None:
        return WhitenedQueries(backend, measurement.y, measurement.sigma, refinement)
    argument = "sigma" if measurement.precision.all() else "mask"
    backend.require_clean_keys(argument, "a noise map or a mask per request")
    if backend.index.strata.constants is not None:
        raise InvalidArgument.of(
            argument, "a noise map or a mask per request needs an index of equivariance none, got offset"
        )
    return _WeightedQueries(backend, measurement.y, measurement.precision, refinement)


class WhitenedQueries:
    """Noise of one σ, seen through the index's pre-inverse."""

    def __init__(
        self, backend: Backend, y: NDArray[np.float64], sigma: float, refinement: Refinement = PAPER
    ) -> None:
        self._backend = backend
        self.sigma = math.hypot(sigma, refinement.bandwidth)
        self.gaussian_share = refinement.gaussian_share
        self._noise = sigma
        self._share = refinement.bandwidth**2 / self.sigma**2
        index = backend.index
        try:
            index.problem.check(y.shape)
        except InvalidArgument as error:
            raise InvalidArgument.of("y", error.expected) from error
        if index.problem.stationary and not index.problem.white:
            covariance = index.problem.covariance(y.shape, index.manifest.patch_size)
            if index.strata.whiteness_error(covariance) > _WHITENESS:
                raise InvalidArgument.of(
                    "y",
                    "expected an image of the training images' size, "
                    f"{'x'.join(map(str, index.image_size))}, got {y.shape[0]}x{y.shape[1]}, where "
                    f"{index.manifest.pre_inverse!r} makes other noise",
                )
        self._z = index.problem.pre_invert(y)
        positions = np.arange(y.shape[0] * y.shape[1])
        self._stratum = np.zeros(len(positions), np.int64)
        if index.strata.exclusive:
            scale = backend.patches(index.problem.scale(y.shape), positions)
            self._stratum = index.strata.of(scale)
            if (self._stratum < 0).any():
                row, column = divmod(int(np.argmin(self._stratum)), y.shape[1])
                raise InvalidArgument.of(
                    "y",
                    f"expected an image whose mask has the patterns of the index's training images, got "
                    f"{y.shape[0]}x{y.shape[1]} pixels with another pattern around ({row}, {column})",
                )

    @property
    def work(self) -> int:
        """Pairs of a query and a distinct key that counts for it."""
        if self.gaussian_share == 1:
            return 0
        return int(self._backend.distinct_keys_that_count(self._stratum).sum())

    def queries(self, n: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The patches of B y at positions n, (len(n), P), and their strata, (len(n),)."""
        return self._backend.patches(self._z, n), self._stratum[n]

    def sums(
        self,
        n: NDArray[np.int64],
        method: Method,
        want: Want,
        cancelled: Cancel,
        about: Tensor | None = None,
    ) -> PosteriorSums:
        """Sums over all that counts, see `ImageQueries`."""
        backend = self._backend
        u, stratum = self.queries(n)

        def of_keys() -> PosteriorSums:
            return backend.whitened_sums(u, stratum, self.sigma, method, want, cancelled, about)

        def of_gaussians() -> PosteriorSums:
            white = torch.from_numpy(backend.index.strata.whiten(u, 0)).to(backend.device)
            return backend.gaussians.sums(Queries.white(white, self.sigma), want, cancelled, about)

        return _shared(self.gaussian_share, of_keys, of_gaussians)

    def clean(self, posterior: Posterior, n: NDArray[np.int64]) -> Posterior:
        """The posterior of the clean pixels and patches, see `ImageQueries`.

        Where keys are without their level, that of the query is added, whose noise is independent.
        """
        strata = self._backend.index.strata
        left = np.full(self._z.shape, self._share * self._noise**2)
        if strata.constants is not None:
            u, _ = self.queries(n)
            level = torch.from_numpy(strata.levels(u, 0)).to(posterior.mean.device)  # (Q, C)
            in_patch = posterior.patch.shape[1] // level.shape[1]
            posterior = replace(
                posterior,
                mean=posterior.mean + level,
                patch=posterior.patch + level.repeat(1, in_patch),
            )
            left = left * (1 - strata.level_variance) + self._noise**2 * strata.level_variance
        elif not self._share:
            return posterior
        return _blended(self._backend, posterior, n, self._z, np.full(self._z.shape, self._share), left)


class _WeightedQueries:
    """Noise of a precision for each pixel and channel, on clean keys."""

    sigma = None

    def __init__(
        self,
        backend: Backend,
        y: NDArray[np.float64],
        precision: NDArray[np.float64],
        refinement: Refinement,
    ) -> None:
        self._backend = backend
        self._y = y
        self.gaussian_share = refinement.gaussian_share
        tau2 = refinement.bandwidth**2
        self._precision = precision / (1 + tau2 * precision)
        self._share = tau2 * self._precision
        self._left = tau2 * (1 - self._share)

    @property
    def work(self) -> int:
        """Pairs of a query and a distinct key that counts for it; weighted products are twice as long."""
        if self.gaussian_share == 1:
            return 0
        return int(2 * self._y.shape[0] * self._y.shape[1] * self._backend.index.manifest.distinct)

    def sums(
        self,
        n: NDArray[np.int64],
        method: Method,
        want: Want,
        cancelled: Cancel,
        about: Tensor | None = None,
    ) -> PosteriorSums:
        """Sums over all that counts, see `ImageQueries`."""
        backend = self._backend
        precision = backend.patches(self._precision, n)
        queries = Queries(
            torch.from_numpy(backend.patches(self._y, n).astype(np.float32)).to(backend.device),
            torch.from_numpy(precision.astype(np.float32)).to(backend.device),
        )
        return _shared(
            self.gaussian_share,
            lambda: self._of_keys(queries, precision, method, want, cancelled, about),
            lambda: backend.gaussians.sums(queries, want, cancelled, about),
        )

    def _of_keys(
        self,
        queries: Queries,
        precision: NDArray[np.float64],
        method: Method,
        want: Want,
        cancelled: Cancel,
        about: Tensor | None,
    ) -> PosteriorSums:
        """Sums over all keys, for queries of these precisions."""
        backend = self._backend
        seen = precision > 0
        log_norm = 0.5 * np.log(precision / (2 * math.pi), where=seen, out=np.zeros_like(precision)).sum(
            axis=1
        )
        blind = np.flatnonzero(~seen.any(axis=1))
        sighted = np.flatnonzero(seen.any(axis=1))
        parts = []
        for rows, how in ((sighted, method), (blind, method.unseeing())):
            if len(rows):
                some = queries.rows(torch.from_numpy(rows).to(backend.device))
                centre = None if about is None else about[rows]
                parts.append(backend.sums(some, 0, how, want, cancelled, centre))
        order = torch.from_numpy(np.argsort(np.concatenate([sighted, blind]))).to(backend.device)
        constant = torch.from_numpy(log_norm - math.log(backend.index.manifest.keys)).to(backend.device)
        return PosteriorSums.join(parts).take(order).shift(constant)

    def clean(self, posterior: Posterior, n: NDArray[np.int64]) -> Posterior:
        """The posterior of the clean pixels and patches, see `ImageQueries`."""
        return _blended(self._backend, posterior, n, self._y, self._share, self._left)


def _shared(
    gaussian_share: float, of_keys: Callable[[], PosteriorSums], of_gaussians: Callable[[], PosteriorSums]
) -> PosteriorSums:
    """Sums over keys and Gaussians, of which the latter have a share of the prior."""
    if gaussian_share == 0:
        return of_keys()
    if gaussian_share == 1:
        return of_gaussians()
    keys, gaussians = of_keys(), of_gaussians()
    return keys.shift(math.log1p(-gaussian_share)).merge(gaussians.shift(math.log(gaussian_share)))


def _blended(
    backend: Backend,
    posterior: Posterior,
    n: NDArray[np.int64],
    y: NDArray[np.float64],
    share: NDArray[np.float64],
    left: NDArray[np.float64],
) -> Posterior:
    """The posterior at positions n with a Gaussian about each key.

    `share` of a mean is y, and `left` the variance that each key leaves, (H, W, C) like y.
    """
    device = posterior.mean.device

    def blend(mean: Tensor, variance: Tensor, images: list[NDArray[np.float64]]) -> tuple[Tensor, Tensor]:
        u, of_y, more = (torch.from_numpy(image).to(device) for image in images)
        columns = variance.shape[1]  # none where it is not wanted
        return of_y * u + (1 - of_y) * mean, (1 - of_y[:, :columns]).square() * variance + more[:, :columns]

    images = (y, share, left)
    centres = [image.reshape(-1, image.shape[2])[n] for image in images]
    mean, variance = blend(posterior.mean, posterior.variance, centres)
    patch, patch_variance = posterior.patch, posterior.patch_variance
    if patch.shape[1]:
        patches = [backend.patches(image, n) for image in images]
        patch, patch_variance = blend(patch, patch_variance, patches)
    of_keys = 1 - torch.from_numpy(centres[1]).to(device)
    error = of_keys[:, : posterior.error.shape[1]] * posterior.error
    return replace(
        posterior, mean=mean, variance=variance, patch=patch, patch_variance=patch_variance, error=error
    )
