"""LE-MMSE: reconstructions from the posterior means of patches."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.results import Result
from lemmse.estimator.aggregate import Aggregate, Centres, Overlap
from lemmse.estimator.answers.request import Request
from lemmse.estimator.answers.result import Pass, Sums, result_of
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.gaussians import Gaussians
from lemmse.estimator.half_quadratic import split
from lemmse.estimator.image_queries import WhitenedQueries, cut_queries
from lemmse.estimator.observation import Observation
from lemmse.estimator.pixel_posteriors import pixel_posteriors
from lemmse.estimator.planning import maps_to_sum, plan_sums

__all__ = ["le_mmse", "patch_aggregate"]


def le_mmse(backend: Backend, request: Request, cancelled: Cancel) -> Result:
    """Return the answer of LE-MMSE to a request.

    References
    ----------
    arXiv 2601.10334, the LE-MMSE estimator.
    """
    observation = request.observation
    gaussians: Gaussians | None = None
    before: Sequence[Sums] = ()
    if request.refinement.aggregate == "epll":
        observation, gaussians, before = _split(backend, request, cancelled)
    last = _pass_over_keys(backend, request, observation, gaussians, cancelled)
    return result_of(backend.index, request, last, before)


def patch_aggregate(backend: Backend, request: Request) -> Aggregate:
    """Return what makes the image of a request from the posteriors of patches."""
    maps = maps_to_sum(backend.index, request.options, request.refinement)
    *sides, channels = request.observation.y.shape
    if request.refinement.aggregate == "centre":
        return Centres(channels, maps)
    backend.require_clean_keys("aggregate", "overlap")
    pixels = request.observation.pixels
    positions = backend.cut(np.arange(pixels).reshape(*sides, 1))
    return Overlap(pixels, channels, maps, positions.at, backend.device)


def _pass_over_keys(
    backend: Backend,
    request: Request,
    observation: Observation,
    gaussians: Gaussians | None,
    cancelled: Cancel,
) -> Pass:
    """Return the pass for an observation of the request's shape, with other Gaussians if there are some."""
    queries = cut_queries(backend, observation, request.refinement, gaussians)
    image = patch_aggregate(backend, request)
    plan = plan_sums(backend, queries, request.options, request.refinement, cancelled)
    return Pass(image, plan, pixel_posteriors(backend, queries, plan, observation.pixels))


def _split(
    backend: Backend, request: Request, cancelled: Cancel
) -> tuple[Observation, Gaussians | None, Sequence[Sums]]:
    """Return the observation whose mean over overlapping patches is that of "epll", and its Gaussians.

    The third is what the passes over the keys to get there were. Gaussians of the prior are adapted to a
    first answer, with which the second one begins.
    """
    backend.require_white_noise("aggregate", "epll")
    passes: list[Sums] = []

    def mean(observation: Observation, gaussians: Gaussians | None = None) -> NDArray[np.float64]:
        one = _pass_over_keys(backend, request, observation, gaussians, cancelled)
        passes.append(one.collect())
        return one.image.arrays()["image"].astype(np.float64).reshape(observation.y.shape)

    last = split(request.observation, mean)
    if not request.refinement.gaussian_share:
        return last, None, passes
    first = replace(last, y=mean(last))
    gaussians = WhitenedQueries(backend, first, request.refinement).adapted(cancelled)
    last = split(request.observation, partial(mean, gaussians=gaussians), first.y)
    return last, gaussians, passes
