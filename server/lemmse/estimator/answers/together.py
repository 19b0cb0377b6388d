"""Several small images in mode exact, by one sum over the keys."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.contract.results import Result
from lemmse.estimator.aggregate import Aggregate
from lemmse.estimator.answers.le_mmse import patch_aggregate
from lemmse.estimator.answers.request import Known, Request
from lemmse.estimator.answers.result import Pass, result_of
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.costs import exact_work, pixels_of
from lemmse.estimator.image_queries import WhitenedQueries
from lemmse.estimator.modes import is_cheap
from lemmse.estimator.pixel_posteriors import joint_posteriors
from lemmse.estimator.planning import plan_sums
from lemmse.estimator.refinement import splits

__all__ = ["answer_together", "joint_options"]


def joint_options(backend: Backend, measurement: Measurement, options: Options) -> Options | None:
    """Return the options with which `answer_together` answers a measurement as `answer` does; None if not."""
    if options.estimator != "le-mmse" or options.mode not in ("auto", "exact") or options.exclude:
        return None
    if backend.index.manifest.axes == 3:
        return None
    if measurement.mask is not None or not isinstance(measurement.sigma, float) or measurement.gain:
        return None
    if splits(backend.index, measurement.sigma, options):
        return None
    pixels = pixels_of(backend, measurement)
    if options.mode == "auto" and not is_cheap(backend, pixels, exact_work(backend, pixels)):
        return None
    return replace(options, mode="exact")


def answer_together(
    backend: Backend, measurements: Sequence[Measurement], options: Options, cancelled: Cancel
) -> list[Result | InvalidArgument]:
    """Return the reconstruction of each measurement, or the error if it does not fit the index."""
    start = time.perf_counter()
    found = [_prepared(backend, measurement, options) for measurement in measurements]
    small = [one for one in found if not isinstance(one, InvalidArgument)]
    results = _results(backend, small, options, cancelled) if small else []
    each = (time.perf_counter() - start) / max(1, sum(one.queries.pixels for one in small))
    answers = (
        replace(result, diagnostics=replace(result.diagnostics, seconds=each * one.queries.pixels))
        for one, result in zip(small, results, strict=True)
    )
    return [one if isinstance(one, InvalidArgument) else next(answers) for one in found]


class _Small(NamedTuple):
    """A small image."""

    request: Request
    queries: WhitenedQueries
    image: Aggregate
    """What makes its reconstruction."""


def _prepared(backend: Backend, measurement: Measurement, options: Options) -> _Small | InvalidArgument:
    try:
        request = Request.of(backend.index, Known(measurement), options)
        queries = WhitenedQueries(backend, request.observation, request.refinement)
        return _Small(request, queries, patch_aggregate(backend, request))
    except InvalidArgument as error:
        return error.with_traceback(None)  # it would refer to this frame, and that to the image


def _results(backend: Backend, small: Sequence[_Small], options: Options, cancelled: Cancel) -> list[Result]:
    images = [one.queries for one in small]
    plan = plan_sums(backend, images[0], options, small[0].request.refinement, cancelled)
    posteriors = joint_posteriors(backend, images, plan.spec)
    return [
        result_of(backend.index, one.request, Pass(one.image, plan, [posterior]))
        for one, posterior in zip(small, posteriors, strict=True)
    ]
