"""The clean posterior under a bandwidth τ: each key v stands for a Gaussian centred at it.

Given u, with noise of standard deviation s, its mean is (τ² u + s² v) / (s² + τ²): a share of u, and the rest
of v.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from lemmse.estimator.sums import Posterior

__all__ = ["blended"]

_Blend = tuple[Tensor, Tensor, Tensor]
"""u, the share of u in the mean, and the variance to add, (Q, L), or (L,) if they are the same everywhere."""


def blended(posterior: Posterior, centres: Callable[[], _Blend], patches: Callable[[], _Blend]) -> Posterior:
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
