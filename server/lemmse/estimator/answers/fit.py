"""How well the training images of an index describe a measurement, to choose among indexes by."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator.answers.request import Known, Request
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.image_queries import cut_queries
from lemmse.estimator.observation import Observation
from lemmse.estimator.planning import plan_sums
from lemmse.estimator.sums import Posterior

__all__ = ["Fit", "fit"]


class Fit(NamedTuple):
    """How well the training images of an index describe a measurement."""

    log_density: float
    """Mean log density of its patches under the prior and the noise."""
    error: float
    """Mean square error to expect of its reconstruction, up to a number that no index changes."""


def fit(
    backend: Backend, measurement: Measurement, options: Options, n: NDArray[np.int64], cancelled: Cancel
) -> Fit:
    """Return how well an index describes a measurement at positions n, by LE-MMSE and aggregate centre."""
    options = replace(options, estimator="le-mmse", maps=frozenset({"variance"}), aggregate="centre")
    request = Request.of(backend.index, Known(measurement), options, cancelled)
    queries = cut_queries(backend, request.observation, request.refinement)
    plan = plan_sums(backend, queries, options, request.refinement, cancelled)
    posterior = queries.sums(n, plan.spec).posterior(backend.index.manifest.channels)
    error = _expected_error(queries.clean(posterior, n), request.observation, n)
    return Fit(float(posterior.log_density.mean()), error)


def _expected_error(posterior: Posterior, observation: Observation, n: NDArray[np.int64]) -> float:
    """Return the mean of (x̂ − y)² + 2 V over the observed of the pixels at positions n."""
    y, s = (
        np.broadcast_to(image, observation.y.shape).reshape(-1, observation.y.shape[-1])[n]
        for image in (observation.y, observation.sigma)
    )
    terms = np.square(posterior.mean.cpu().numpy() - y) + 2 * posterior.variance.cpu().numpy()
    observed = np.isfinite(s)
    return float(terms[observed].mean()) if observed.any() else 0.0
