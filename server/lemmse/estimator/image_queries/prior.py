"""The prior of patches: the keys, beside them a mixture of Gaussians with a share γ of the weight."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.queries import Queries
from lemmse.estimator.sums import PosteriorSums
from lemmse.index.storage.picture_record import Refinement

__all__ = ["covariance", "mixed_sums", "range_of_mean", "require_prior"]


def require_prior(backend: Backend, refinement: Refinement) -> None:
    """Raise InvalidArgument unless the keys are those that a refinement needs."""
    if refinement.bandwidth:
        backend.require_clean_keys("bandwidth", "a bandwidth")
    if refinement.gaussian_share:
        backend.require_clean_keys("gaussian_share", "a share of Gaussians")


def mixed_sums(
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


def covariance(
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


def range_of_mean(
    backend: Backend, gaussian_share: float, count: int, gaussian_sums: Callable[[], PosteriorSums]
) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest mean that targets of keys and the given Gaussians allow, (Q, C)."""
    low, high = (bound.expand(count, -1) for bound in (backend.extent.low, backend.extent.high))
    if not gaussian_share:
        return low, high
    mean = gaussian_sums().posterior(backend.index.manifest.channels).mean.to(low.device)
    return torch.minimum(low, mean), torch.maximum(high, mean)
