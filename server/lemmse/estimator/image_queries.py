"""The query patches of an image, and the posterior of each of its pixels, for LE-MMSE.

There are two kinds of noise: noise of one σ, white or of the spectrum of the index, which the pre-inverse
colours and the strata whiten; and noise with a precision for each pixel, which needs clean keys (A = B = I).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.adaptation import MOST_PATCHES, adapt
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.gaussians import Gaussians
from lemmse.estimator.observation import Observation
from lemmse.estimator.queries import Queries
from lemmse.estimator.stratum_sums import ColouredQueries, log_normalizer
from lemmse.estimator.sum_spec import EXACT, SumSpec
from lemmse.estimator.sums import Outputs, Posterior, PosteriorSums
from lemmse.index import Index
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["ImageQueries", "WhitenedQueries", "cut_queries", "joint_sums", "require_map"]

_WHITENESS = 1e-2
"""Largest deviation from the identity, in any entry, of the covariance of the whitened noise of an image that
does not have the size of the training images."""


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


def cut_queries(
    backend: Backend,
    observation: Observation,
    refinement: Refinement = PAPER,
    gaussians: Gaussians | None = None,
) -> ImageQueries:
    """Return the query patches of an observation, under the prior of a refinement.

    Other Gaussians than those of the index may take their place if the noise has one σ.

    Raises
    ------
    InvalidArgument
        The observation does not fit the inverse problem of the index, or the size of its images.
    """
    if observation.is_white:
        return WhitenedQueries(backend, observation, refinement, gaussians)
    _require_refinable(backend, refinement)
    argument = "sigma" if np.isfinite(observation.sigma).all() else "mask"
    require_map(backend, argument)
    return _WeightedQueries(backend, observation, refinement)


def require_map(backend: Backend, argument: str) -> None:
    """Raise InvalidArgument unless an index takes a precision for each pixel of a request."""
    what = "poisson-gaussian noise" if argument == "noise" else "a noise map or a mask per request"
    backend.require_white_noise(argument, what)
    if backend.index.strata.constants is not None:
        raise InvalidArgument.of(argument, f"{what} needs an index of equivariance none, got offset")


def joint_sums(images: Sequence["WhitenedQueries"], spec: SumSpec) -> list[PosteriorSums]:
    """Return the posterior sums for all pixels of each of several images, by one sum over keys and Gaussians.

    The images have one σ and one prior.
    """
    parts = [image.queries(np.arange(image.pixels)) for image in images]
    return images[0].sums_of(ColouredQueries.join(parts), spec).split([len(part) for part in parts])


def _require_refinable(backend: Backend, refinement: Refinement) -> None:
    """Raise InvalidArgument unless the keys are those that a refinement needs."""
    if refinement.bandwidth:
        backend.require_clean_keys("bandwidth", "a bandwidth")
    if refinement.gaussian_share:
        backend.require_clean_keys("gaussian_share", "a share of Gaussians")


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
        _require_refinable(backend, refinement)
        self._backend, self._others = backend, gaussians
        self._variance = float(observation.sigma) ** 2
        tau2 = refinement.bandwidth**2
        self.sigma = math.hypot(float(observation.sigma), refinement.bandwidth)
        self.gaussian_share = refinement.gaussian_share
        self._precision = 1 / self.sigma**2
        self._share = tau2 * self._precision
        _require_same_noise(backend.index, observation.y.shape[1:])
        z = np.stack([backend.index.problem.pre_invert(plane) for plane in observation.y])
        self._z, self._channels = backend.cut(z), z.shape[-1]
        self._stratum = _strata_of(backend, observation.y.shape)
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

        return _mixed(self.gaussian_share, key_sums, gaussian_sums)

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

        return _range(self._backend, self.gaussian_share, len(n), gaussian_sums)

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
        return _blended(
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
        product = _covariance(backend, queries, of_keys, self.gaussian_share, log_norm, cancelled)
        product = self._precision * product + self._share * directions
        if backend.index.strata.constants is not None:  # the level of the query is a mean of its pixels
            level = whitening.levels(of_keys, 0)  # (Q, C)
            product += level.repeat(1, product.shape[1] // level.shape[1])
        return product


def _require_same_noise(index: Index, shape: tuple[int, int, int]) -> None:
    """Raise InvalidArgument unless B yields the noise that the strata whiten, for an image of this shape."""
    try:
        index.problem.check(shape)
    except InvalidArgument as error:
        raise InvalidArgument.of("y", error.expected) from error
    if index.problem.depends_on_size:
        covariance = index.problem.covariance(shape, index.manifest.patch_size, index.manifest.patch_depth)
        if index.strata.whiteness_error(covariance) > _WHITENESS:
            raise InvalidArgument.of(
                "y",
                "expected an image of the training images' size, "
                f"{'x'.join(map(str, index.image_size))}, got {shape[0]}x{shape[1]}, where "
                f"{index.manifest.pre_inverse!r} makes other noise",
            )


def _strata_of(backend: Backend, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the stratum of each pixel of a y of this shape, (D·H·W,); 0 where all strata count."""
    index, (depth, height, width, channels) = backend.index, shape
    if not index.strata.exclusive:
        return np.zeros(depth * height * width, np.int64)
    scale = index.problem.scale((height, width, channels))[None]
    stratum = np.tile(index.strata.of(backend.patches(scale, np.arange(height * width))), depth)
    if (stratum < 0).any():
        row, column = divmod(int(np.argmin(stratum)), width)
        raise InvalidArgument.of(
            "y",
            f"expected an image whose mask has the patterns of the index's training images, got "
            f"{height}x{width} pixels with another pattern around ({row}, {column})",
        )
    return stratum


class _WeightedQueries:
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
        return _mixed(
            self.gaussian_share,
            lambda: self._key_sums(queries, spec),
            lambda: self._backend.gaussians.sums(queries, spec),
        )

    def range_of_mean(self, n: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest mean of the targets, see `ImageQueries`."""
        backend = self._backend
        return _range(
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
        return _blended(
            posterior,
            lambda: (y.centres(n), share.centres(n), variance.centres(n)),
            lambda: (y.at(n), share.at(n), variance.at(n)),
        )

    def pull_back(self, n: NDArray[np.int64], directions: Tensor, cancelled: Cancel) -> Tensor:
        """Return the derivative of a·m with respect to the patch of y, see `ImageQueries`."""
        backend, queries = self._backend, self._queries(n)
        share = self._share.at(n)
        product = _covariance(
            backend,
            queries,
            (1 - share) * directions,
            self.gaussian_share,
            _log_normalizers(queries),
            cancelled,
        )
        return queries.precision * product + share * directions


def _mixed(
    gaussian_share: float,
    key_sums: Callable[[], PosteriorSums],
    gaussian_sums: Callable[[], PosteriorSums],
) -> PosteriorSums:
    """Return the merged sums over keys and Gaussians, given the weight of the Gaussians in the prior."""
    if gaussian_share == 0:
        return key_sums()
    if gaussian_share == 1:
        return gaussian_sums()
    keys, gaussians = key_sums(), gaussian_sums()
    return keys.shift(math.log1p(-gaussian_share)).merge(gaussians.shift(math.log(gaussian_share)))


def _log_jacobian(backend: Backend) -> float:
    """Return the log of the density of patches over that of whitened patches, for one stratum."""
    return -0.5 * float(backend.index.strata.log_pdet[0])


def _log_normalizers(queries: Queries) -> Tensor:
    """Return the log of the normalizing constants of the densities, with a precision for each pixel, (Q,)."""
    precision = queries.precision
    return 0.5 * torch.where(precision > 0, precision / (2 * math.pi), 1.0).log().sum(dim=1)


def _covariance(
    backend: Backend,
    queries: Queries,
    directions: Tensor,
    gaussian_share: float,
    log_norm: Tensor | float,
    cancelled: Cancel,
) -> Tensor:
    """Return Cov(v, a·v) under the prior of clean patches v, for the directions a, (Q, P).

    `log_norm` is the log of the normalizing constant of the density of keys.
    """
    if gaussian_share == 1:
        return backend.gaussians.covariances(queries, directions, cancelled).covariance
    keys = backend.covariances(queries, directions, cancelled)
    if gaussian_share == 0:
        return keys.covariance
    keys = keys.shift(log_norm + math.log1p(-gaussian_share) - math.log(backend.index.manifest.keys))
    gaussians = backend.gaussians.covariances(queries, directions, cancelled).shift(math.log(gaussian_share))
    return keys.merge(gaussians).covariance


def _range(
    backend: Backend, gaussian_share: float, count: int, gaussian_sums: Callable[[], PosteriorSums]
) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest mean that targets of keys and the given Gaussians allow, (Q, C)."""
    low, high = (bound.expand(count, -1) for bound in (backend.extent.low, backend.extent.high))
    if not gaussian_share:
        return low, high
    mean = gaussian_sums().posterior(backend.index.manifest.channels).mean.to(low.device)
    return torch.minimum(low, mean), torch.maximum(high, mean)


_Blend = tuple[Tensor, Tensor, Tensor]
"""u, the share of u in the mean, and the variance to add, (Q, L), or (L,) if they are the same everywhere."""


def _blended(posterior: Posterior, centres: Callable[[], _Blend], patches: Callable[[], _Blend]) -> Posterior:
    """Return the posterior for a prior with a Gaussian centred at each key.

    The mean is the share of u and the rest of the mean of the keys.

    Parameters
    ----------
    posterior : Posterior
        The posterior of the keys.
    centres, patches : callable
        Return what the centre pixels, L = C, and the patches, L = P, are blended with.
    """
    of_centre = centres()
    mean, variance = _blend(posterior.mean, posterior.variance, *of_centre)
    patch, patch_variance = posterior.patch, posterior.patch_variance
    if patch.shape[1]:
        patch, patch_variance = _blend(patch, patch_variance, *patches())
    error = (1 - of_centre[1]) * posterior.error if posterior.error.shape[1] else posterior.error
    return replace(
        posterior, mean=mean, variance=variance, patch=patch, patch_variance=patch_variance, error=error
    )


def _blend(mean: Tensor, spread: Tensor, u: Tensor, share: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance after blending; the variance has no columns if it is not requested."""
    if spread.shape[1]:
        spread = (1 - share).square() * spread + variance
    return share * u + (1 - share) * mean, spread
