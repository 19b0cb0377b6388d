"""MMSE and E-MMSE: reconstructions from the posterior means of whole images."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lemmse.contract.results import Result
from lemmse.estimator.aggregate import Centres
from lemmse.estimator.answers.request import Request
from lemmse.estimator.answers.result import Pass, result_of
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.exclusions import excluded_images
from lemmse.estimator.pixel_posteriors import PixelPosteriors
from lemmse.estimator.planning import SumPlan, maps_to_sum, plan_whole_images

__all__ = ["mmse"]


def mmse(backend: Backend, request: Request, cancelled: Cancel) -> Result:
    """Return the answer of MMSE or E-MMSE to a request.

    References
    ----------
    arXiv 2601.10334, the MMSE and E-MMSE estimators.
    """
    index, options = backend.index, request.options
    maps = maps_to_sum(index, options, request.refinement)
    plan = plan_whole_images(index, options, request.refinement, cancelled)
    image = Centres(index.manifest.channels, maps)
    result = result_of(index, request, Pass(image, plan, _posterior(backend, request, plan)))
    if not options.exclude:
        return result
    excluded = excluded_images(index, options.exclude)
    left = index.manifest.keys - index.patches_of_images[[*excluded]].sum()
    return replace(result, diagnostics=replace(result.diagnostics, keys=int(left)))


def _posterior(backend: Backend, request: Request, plan: SumPlan) -> Iterator[PixelPosteriors]:
    """Yield the posterior of one query, whose target is the whole image."""
    observation, equivariant = request.observation, request.options.estimator == "e-mmse"
    whole, some = backend.training_images.without(request.options.exclude)
    (y,), precision = observation.y, observation.precision
    precision = precision if observation.is_white else precision[0]
    sums = whole.sums(y, precision, plan.spec, equivariant=equivariant, some=some)
    n = np.arange(observation.pixels)
    posterior = sums.posterior(y.size)
    image = posterior.top_key // len(n) if equivariant else posterior.top_key
    yield PixelPosteriors(n, replace(posterior, source=image), sums.keys_evaluated)
