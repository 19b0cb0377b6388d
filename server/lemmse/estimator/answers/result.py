"""The result of a request, made from the posteriors of its pixels as they are summed."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lemmse.contract.results import RESULT_MAPS, Diagnostics, NoiseEstimate, Result, with_estimate
from lemmse.estimator.aggregate import Aggregate
from lemmse.estimator.answers.request import Known, Request
from lemmse.estimator.pixel_posteriors import ROUNDING, PixelPosteriors
from lemmse.estimator.planning import SumPlan, is_scored, requested_accuracy
from lemmse.estimator.score import NO_SCORE, Score, image_score, read_once
from lemmse.index import Index
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["Pass", "Sums", "diagnostics_of", "result_of"]


class Sums(NamedTuple):
    """What the sums of an image were."""

    keys_evaluated: float
    """Mean number of keys evaluated for a query."""
    accuracy_db: float | None
    """Estimated agreement with the sum over all keys, PSNR in dB; None if it is not estimated."""


class Pass(NamedTuple):
    """One pass over the keys: posteriors, as they are summed, and what makes an image from them."""

    image: Aggregate
    """What makes the image."""
    plan: SumPlan
    """The plan of the sums."""
    posteriors: Iterable[PixelPosteriors]
    """The posteriors of all pixels."""

    def collect(self) -> Sums:
        """Sum, and add the posteriors to the image."""
        evaluated, squares = [], []
        for n, posterior, keys_evaluated, square_error in self.posteriors:
            self.image.add(posterior, n)
            evaluated.append(keys_evaluated)
            if square_error is not None:
                squares.append(square_error)
        estimated = None
        if squares:
            estimated = -10 * math.log10(float(torch.cat(squares).mean()) + ROUNDING**2)
        return Sums(float(torch.cat(evaluated).double().mean()), estimated)


def result_of(index: Index, request: Request, last: Pass, before: Sequence[Sums] = ()) -> Result:
    """Return the result that the last pass over the keys makes, after others.

    Parameters
    ----------
    index : Index
        The index.
    request : Request
        What was asked.
    last : Pass
        The pass that makes the image; it is summed here.
    before : sequence of Sums
        What passes before it were.
    """
    sums = [*before, last.collect()]
    agreements = [one.accuracy_db for one in sums if one.accuracy_db is not None]
    arrays, options = last.image.arrays(), request.options
    score = _score(index, request, arrays)
    certified = None
    if options.certified:
        certified = float((arrays["error"] <= 10 ** (-requested_accuracy(options) / 20)).mean())
    keys_evaluated = sum(one.keys_evaluated for one in sums)
    diagnostics = replace(
        diagnostics_of(index, request.known, last.plan, keys_evaluated, request.refinement),
        estimated_accuracy_db=min(agreements, default=None),
        certified=certified,
        expected_psnr_db=score.expected_psnr_db,
        misfit=score.misfit,
    )
    measurement, axes = request.known.measurement, index.manifest.axes
    asked = {name: array for name, array in arrays.items() if name in {"image", *options.maps}}
    return measurement.returned(_shaped(asked, measurement.y.shape, axes, diagnostics))


def diagnostics_of(
    index: Index, known: Known, plan: SumPlan, keys_evaluated: float, refinement: Refinement = PAPER
) -> Diagnostics:
    """Return what every answer says about its computation, which ends now.

    Parameters
    ----------
    index : Index
        The index.
    known : Known
        The measurement.
    plan : SumPlan
        The plan of the sums.
    keys_evaluated : float
        Mean number of keys evaluated for a query.
    refinement : Refinement
        The prior and the aggregate.
    """
    diagnostics = Diagnostics(
        mode=plan.spec.mode,
        index=index.name,
        version=index.version,
        keys=index.manifest.keys,
        keys_touched=keys_evaluated,
        seconds=time.perf_counter() - known.start,
        expected_accuracy_db=plan.expected_accuracy_db,
        estimated_accuracy_db=None,
        certified=None,
        aggregate=refinement.aggregate,
        bandwidth=refinement.bandwidth,
        gaussian_share=refinement.gaussian_share,
    )
    return with_estimate(diagnostics, known.estimate)


def _score(index: Index, request: Request, arrays: Mapping[str, NDArray[np.float32]]) -> Score:
    """Return what the measurement says about the error of its reconstruction."""
    if not is_scored(index, request.options, request.refinement):
        return NO_SCORE
    observation, manifest = request.observation, index.manifest
    pixels = observation.y.shape[:3]
    once = np.ones(pixels, np.bool_)
    if request.options.estimator == "le-mmse":
        sides = manifest.patch_depth, manifest.patch_size, manifest.patch_size
        once = read_once(pixels, sides, manifest.boundary)
    noise = request.known.estimate or NoiseEstimate((), ())
    errors = [2 * s * e for s, e in zip(noise.sigma, noise.sigma_error, strict=True)]
    noise_error = sum(errors) / max(1, len(errors))
    if noise.gain_error:
        noise_error += noise.gain_error * float(np.abs(observation.y).mean())
    return image_score(arrays, observation, once, index.problem, noise_error)


def _shaped(
    arrays: Mapping[str, NDArray[np.float32]], shape: tuple[int, ...], axes: int, diagnostics: Diagnostics
) -> Result:
    """Return the result made from arrays with a row for each pixel, the first so many axes of y's shape."""
    maps: dict[str, Any] = {
        name: arrays[name].reshape(shape if info.per_channel else shape[:axes])
        for name, info in RESULT_MAPS.items()
        if name in arrays
    }
    return Result(image=arrays["image"].reshape(shape), diagnostics=diagnostics, **maps)
