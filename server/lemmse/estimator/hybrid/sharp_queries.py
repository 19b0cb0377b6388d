"""Sharp queries: those whose log weights float32 does not resolve, at very low noise or far from all keys.

The groups are traversed at r times the variance, r = 4, 16, …, where float32 does resolve log w. There each
weight is the r-th root of what it is at the given noise: the order of the keys is the same, and what is
negligible there is even more so at the given noise. So with the weight of the heaviest key as the unit,

- every group that may have more than e^threshold of it is opened, even if its keys are much alike;
- opened keys of some weight are weighed again, in float64, at the given noise;
- groups stay closed only if they have less than (e^threshold / n)^r n, and are left out. If a budget did not
  allow to read any key, the statistics of the groups at r times the variance are the answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.hybrid.records import Sharp
from lemmse.estimator.keys import Scale
from lemmse.estimator.queries import LARGEST_MAGNITUDE, Queries
from lemmse.estimator.sums import PosteriorSums

__all__ = ["merge_sharp", "sharp_arrays", "sums_at_resolved_noise"]

_UNKNOWN = 1e30
"""Σ a² t² for queries for which no key was read, whose error may be as large as the range of the targets."""
_LARGEST_EXCESS = 100.0
"""Largest logarithm of the weight of a closed group, relative to the heaviest key that was read."""
_NO_EXCESS = 0.05
"""The same logarithm, if it is nothing but rounding."""


class _Level(NamedTuple):
    """Queries of one block that are traversed at the same multiple of the variance."""

    rows: Tensor
    """Their numbers, (J,)."""
    ratio: float
    """The multiple r; 1 for queries that are not sharp."""


def _levels(queries: Queries, scale: Scale) -> Iterator[_Level]:
    """Yield the queries grouped by the multiple of the variance, a power of 4, at which to traverse."""
    magnitude = queries.magnitude(scale)
    power = (2 * magnitude / LARGEST_MAGNITUDE).log2().div(2).ceil().clamp(min=1)
    power = power.where(magnitude > LARGEST_MAGNITUDE, 0.0)
    for value in torch.unique(power).tolist():
        yield _Level((power == value).nonzero()[:, 0], 4.0**value)


def sums_at_resolved_noise(
    queries: Queries, scale: Scale, sums: Callable[[Tensor, Queries, float], PosteriorSums]
) -> PosteriorSums:
    """Return the sums for all queries, from those of subsets at noise that float32 resolves.

    Parameters
    ----------
    queries : Queries
        The queries.
    scale : Scale
        The scale of the keys.
    sums : callable
        Returns the sums for the queries with some numbers, given these queries with r times the variance,
        and r, which is 1 if they are not sharp.
    """
    parts = []
    for rows, ratio in _levels(queries, scale):
        some = queries.rows(rows)
        parts.append((rows, sums(rows, replace(some, precision=some.precision / ratio), ratio)))
    return PosteriorSums.gather(parts)


def sharp_arrays(queries: Queries, ratio: float, scale: Scale) -> Sharp:
    """Return what the compiled loops need of queries with r times the variance; no rows if r = 1."""
    count = len(queries) if ratio > 1 else 0
    deviation = queries.deviation(scale.centre)[:count]
    precision = (queries.precision.double() * ratio).expand(queries.u.shape)[:count]
    scaled = precision * deviation
    return Sharp(
        scaled=np.ascontiguousarray(scaled.numpy()),
        precision=np.ascontiguousarray(precision.numpy()),
        centre=scale.centre.numpy(),
        common=-0.5 * (scaled * deviation).sum(dim=1).numpy(),
        heaviest=np.full(count, -np.inf),
    )


def merge_sharp(
    groups: PosteriorSums,
    keys: PosteriorSums,
    log_z: NDArray[np.float64],
    sharp: Sharp,
    ratio: float,
) -> tuple[PosteriorSums, NDArray[np.float64]]:
    """Return the sums for sharp queries, and how far Σ w is below its estimate at r times the variance.

    Parameters
    ----------
    groups : PosteriorSums
        Sums over closed groups at r times the variance, relative to e^log_z.
    keys : PosteriorSums
        Sums over opened keys, with their weights at the given noise.
    log_z : float64, (Q,)
        log of the unit of the groups, at r times the variance.
    sharp : Sharp
        The queries.
    ratio : float
        The multiple r of the variance.
    """
    excess = torch.from_numpy(log_z - sharp.heaviest)
    common = torch.from_numpy(sharp.common)
    any_key = keys.moments[:, 0] > 0
    closed = (~any_key).double()[:, None]
    scale = excess.clamp(max=_LARGEST_EXCESS).exp().where(any_key, 1.0)[:, None]
    # Relative to the heaviest key, a group has less at the given noise, if it has no nearer key.
    bounded = (excess <= _NO_EXCESS) | ~any_key
    error_variance = groups.error_variance * scale.square()
    error_variance[:, 1 + error_variance.shape[1] // 2 :] += _UNKNOWN * closed
    sums = (
        replace(
            groups,
            log_max=keys.log_max.where(any_key, ratio * torch.from_numpy(log_z) - common),
            moments=groups.moments * closed,
            patches=groups.patches * closed,
            w2=groups.w2 * closed,
            error_variance=error_variance,
            bounds=(groups.bounds * scale).where(bounded[:, None], torch.nan),
        )
        .merge(keys)
        .shift(common)
    )
    return sums, excess.where(any_key, -groups.moments[:, 0].log()).numpy()
