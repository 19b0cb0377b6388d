"""The closed loop of mode hybrid: patches are summed with more work until the image agrees as requested.

Hybrid estimates an error for each patch. Calibration measures the factor by which the root mean square of
these estimates differs from that of the errors; with it, they add up to an estimate of the agreement of the
image at hand. While that is too low, the patches that cause most of what is missing are summed again at a
lower threshold, and in the end over all keys. An estimate that is not a number, as of damaged statistics,
counts as infinite.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.image_queries import ImageQueries
from lemmse.estimator.planning import Goal, SumPlan
from lemmse.estimator.sums import PosteriorSums

__all__ = ["LoopSums", "sums_to_accuracy"]

_SAFETY_DB = 2.0
"""The estimate must exceed the requested agreement by this, since it may be off by as much."""
_STEP = 1.5
"""Decrease of the threshold for patches that are summed again."""
_ROUNDS = 4
"""Number of times that patches are summed again, the last time over all keys."""


class LoopSums(NamedTuple):
    """Posterior sums that reach the requested agreement, and their errors."""

    sums: PosteriorSums
    """The sums, for Q queries."""
    error_scale: Tensor
    """Factor for the estimated error of each query, which few pixels exceed, (Q, 1)."""
    square: Tensor
    """Estimated square of the error of each query, mean over the targets, (Q,)."""
    keys_evaluated: Tensor
    """Number of distinct keys evaluated for each query, in all rounds, (Q,)."""


def sums_to_accuracy(queries: ImageQueries, n: NDArray[np.int64], plan: SumPlan, goal: Goal) -> LoopSums:
    """Return the sums for the pixels at positions n, in mode hybrid, as accurate as requested on average.

    Parameters
    ----------
    queries : ImageQueries
        The query patches of the image.
    n : int, (Q,)
        Positions of the pixels.
    plan : SumPlan
        The plan with which to begin; its outputs include the error.
    goal : Goal
        The requested agreement.

    Raises
    ------
    Cancelled
        `plan.spec.cancelled()` was true.
    """
    target = 10 ** (-(goal.accuracy_db + _SAFETY_DB) / 10) * len(n)
    result = _sums_at(queries, n, plan, goal, plan.spec.threshold)
    for number in range(1, _ROUNDS + 1):
        if float(result.square.sum()) <= target:
            break
        again = _worst(result.square, target / 2)
        rows = n[again.cpu().numpy()]
        if number < _ROUNDS:
            new = _sums_at(queries, rows, plan, goal, plan.spec.threshold - _STEP * number)
        else:
            new = _exact_sums(queries, rows, plan)
        evaluated = result.keys_evaluated.index_add(0, again, new.keys_evaluated)
        result = LoopSums(
            result.sums.put(again, new.sums),
            result.error_scale.index_copy(0, again, new.error_scale),
            result.square.index_copy(0, again, new.square),
            evaluated,
        )
    return result


def _sums_at(
    queries: ImageQueries, n: NDArray[np.int64], plan: SumPlan, goal: Goal, threshold: float
) -> LoopSums:
    """Return the sums at a threshold that calibration has measured, or the next lower one."""
    point = goal.calibration.at(goal.sigma, threshold)
    sums = queries.sums(n, replace(plan.spec, threshold=point.threshold))
    error = sums.posterior(plan.t_length).error
    scale = point.overlap_error_scale if plan.spec.outputs.patch else point.error_scale
    return LoopSums(
        sums,
        torch.full((len(n), 1), scale, dtype=torch.float64, device=error.device),
        (point.rms_scale * error).square().mean(dim=1).nan_to_num(nan=torch.inf),
        sums.keys_evaluated,
    )


def _exact_sums(queries: ImageQueries, n: NDArray[np.int64], plan: SumPlan) -> LoopSums:
    sums = queries.sums(n, plan.spec.exact())
    none = torch.zeros(len(n), dtype=torch.float64, device=sums.log_max.device)
    return LoopSums(sums, none[:, None] + 1, none, sums.keys_evaluated)


def _worst(square: Tensor, target: float) -> Tensor:
    """Return the fewest queries, in order, without which the sum of the squares is at most a target."""
    order = square.argsort()
    return order[square[order].cumsum(0) > target].sort().values
