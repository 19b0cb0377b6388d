"""The query patches of an observation, by the kind of its noise."""

import numpy as np

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.backend import Backend
from lemmse.estimator.gaussians import Gaussians
from lemmse.estimator.image_queries.interface import ImageQueries
from lemmse.estimator.image_queries.prior import require_prior
from lemmse.estimator.image_queries.weighted import WeightedQueries
from lemmse.estimator.image_queries.whitened import WhitenedQueries
from lemmse.estimator.observation import Observation
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["cut_queries", "require_map"]


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
    require_prior(backend, refinement)
    argument = "sigma" if np.isfinite(observation.sigma).all() else "mask"
    require_map(backend, argument)
    return WeightedQueries(backend, observation, refinement)


def require_map(backend: Backend, argument: str) -> None:
    """Raise InvalidArgument unless an index takes a precision for each pixel of a request."""
    what = "poisson-gaussian noise" if argument == "noise" else "a noise map or a mask per request"
    backend.require_white_noise(argument, what)
    if backend.index.strata.constants is not None:
        raise InvalidArgument.of(argument, f"{what} needs an index of equivariance none, got offset")
