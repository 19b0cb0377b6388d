"""The posteriors of the pixels of an image, computed by a plan, with their estimated or certified errors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import even_blocks
from lemmse.estimator.closed_loop import sums_to_accuracy
from lemmse.estimator.contributors import heaviest_images
from lemmse.estimator.image_queries import ImageQueries, WhitenedQueries, joint_sums
from lemmse.estimator.planning import SumPlan
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, Posterior

__all__ = ["ROUNDING", "PixelPosteriors", "joint_posteriors", "pixel_posteriors"]

_BLOCK = 16_384
"""Number of query patches extracted at once."""
ROUNDING = 1e-5
"""Largest difference between two sums of the same weights in float32."""
_MARGIN = 7.0
"""Natural logarithm of the ratio of the certified accuracy to the contribution of one unopened group; many
groups may contribute as much."""


class PixelPosteriors(NamedTuple):
    """The posteriors of a block of pixels."""

    n: NDArray[np.int64]
    """Positions of the pixels."""
    posterior: Posterior
    """The posterior of the clean pixels."""
    keys_evaluated: Tensor
    """Number of distinct keys evaluated for each query, int64."""
    square_error: Tensor | None = None
    """Estimated square of the error of each query relative to the sum over all keys; None if unknown."""


def pixel_posteriors(
    backend: Backend, queries: ImageQueries, plan: SumPlan, pixels: int
) -> Iterator[PixelPosteriors]:
    """Yield the posteriors of all pixels of an image, in blocks, in the order of their positions.

    Parameters
    ----------
    backend : Backend
        The keys.
    queries : ImageQueries
        The query patches of the image.
    plan : SumPlan
        The specification of the sums and of their errors.
    pixels : int
        Number of pixels, D·H·W.
    """
    for block in even_blocks(pixels, _BLOCK):
        n = np.arange(block.start, block.stop)
        if plan.goal is not None:
            sums, scale, square, evaluated = sums_to_accuracy(queries, n, plan, plan.goal)
        else:
            sums, scale, square = queries.sums(n, plan.spec), torch.ones(1, dtype=torch.float64), None
            evaluated = sums.keys_evaluated
        posterior = sums.posterior(backend.index.manifest.channels)
        if plan.spec.mode == "hybrid":
            posterior, more = _with_error(backend, queries, plan, n, posterior, scale)
            evaluated = evaluated + more
        if plan.nearest is not None:
            nearest = queries.sums(n, plan.nearest)
            posterior = _with_source(backend, posterior, nearest.top_key, plan.nearest)
            evaluated = evaluated + nearest.keys_evaluated
        elif plan.spec.outputs.top:
            posterior = _with_source(backend, posterior, posterior.top_key, plan.spec)
        yield PixelPosteriors(n, queries.clean(posterior, n), evaluated, square)


def joint_posteriors(
    backend: Backend, images: Sequence[WhitenedQueries], spec: SumSpec
) -> Iterator[PixelPosteriors]:
    """Yield the posteriors of all pixels of each of several images, computed by one sum over all keys.

    Parameters
    ----------
    backend : Backend
        The keys.
    images : sequence of WhitenedQueries
        The query patches of the images, of one σ and one prior. They are few: all are summed at once.
    spec : SumSpec
        The specification of the sums, of mode exact.
    """
    for queries, sums in zip(images, joint_sums(images, spec), strict=True):
        n = np.arange(queries.pixels)
        posterior = sums.posterior(backend.index.manifest.channels)
        if spec.outputs.top:
            posterior = _with_source(backend, posterior, posterior.top_key, spec)
        yield PixelPosteriors(n, queries.clean(posterior, n), sums.keys_evaluated)


def _with_source(backend: Backend, posterior: Posterior, top_key: Tensor, spec: SumSpec) -> Posterior:
    """Return the posterior with the training image of each query's heaviest key, (Q, 1 or 0)."""
    keys = top_key.cpu().numpy()
    keys = keys[:, 0] if keys.shape[1] else np.full(len(keys), -1)  # Gaussians alone have no keys
    images = heaviest_images(backend.index, keys, spec.cancelled)
    return replace(posterior, source=torch.from_numpy(images)[:, None])


def _with_error(
    backend: Backend,
    queries: ImageQueries,
    plan: SumPlan,
    n: NDArray[np.int64],
    posterior: Posterior,
    scale: Tensor,
) -> tuple[Posterior, Tensor | int]:
    """Return the posterior of hybrid, its mean clipped, with its error; and the keys evaluated for it."""
    low, high = (bound.to(posterior.mean.device) for bound in queries.range_of_mean(n))
    # The statistics of a group may shift the mean beyond the range that contains the exact mean.
    posterior = replace(posterior, mean=torch.clamp(posterior.mean, low, high))
    widest = torch.maximum(posterior.mean - low, high - posterior.mean)
    if plan.certify_db is None or queries.sigma is None:
        return replace(
            posterior, error=torch.minimum(posterior.error * scale.to(widest.device), widest) + ROUNDING
        ), 0
    bounded = queries.sums(n, _bound_spec(plan.spec, plan.certify_db, posterior.mean, backend))
    bound = bounded.posterior(backend.index.manifest.channels).error_bound
    return replace(posterior, error=torch.minimum(bound, widest) + ROUNDING), bounded.keys_evaluated


def _bound_spec(spec: SumSpec, accuracy_db: float, reference: Tensor, backend: Backend) -> SumSpec:
    """Return the specification of bounds on |mean − reference| that can certify an accuracy."""
    # Beyond a sixteenth of the keys, the exact sum, which is one matrix product, is faster.
    budget = max(1, backend.index.manifest.distinct // 16) if spec.budget is None else spec.budget
    return replace(
        spec,
        threshold=-accuracy_db / 20 * math.log(10) - _MARGIN,
        budget=budget,
        outputs=Outputs(variance=True, bounds=True),
        reference=reference,
    )
