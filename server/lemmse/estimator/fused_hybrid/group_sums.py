"""The estimate of Σ w, the groups to open, and the sums over all others."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lemmse.estimator.fused_hybrid.scores import Distances, GroupTables
from lemmse.estimator.sums import Outputs, PosteriorSums
from lemmse.index.clustering.moments import Basis

__all__ = ["Closed", "Probe", "close", "patch_sums", "probe"]

_GAIN = 2.0
"""Largest amount by which a log mass may exceed Jensen's bound before any group is opened."""
_LARGEST_THRESHOLD = 80.0
_SPLIT = 512
"""Number of groups of a program of the kernels."""
_BLOCKS = {"BQ": 16, "BG": 128, "num_warps": 4}


class Probe(NamedTuple):
    """What the moments of all groups say of each query."""

    log_mass: Tensor
    """Estimate of log Σ w, float64, (Q,)."""
    group: Tensor
    """The groups with the largest estimated mass of some splits, in descending order, int64, (Q, most)."""


class Closed(NamedTuple):
    """The groups to open, and the sums over the others."""

    opened: Tensor
    """Whether to open a group, int8, (Q, G)."""
    sums: PosteriorSums
    """The sums over all other groups."""


def probe(tables: GroupTables, distances: Distances, most: int) -> Probe:
    """Return an estimate of Σ w, and up to `most` groups with a large mass."""
    from lemmse.estimator.fused_hybrid.group_kernel import probe_kernel  # imports Triton

    q, g = distances.square.shape
    splits = -(-g // _SPLIT)
    masses = distances.square.new_empty(splits, 3, q)
    heaviest = torch.empty(splits, q, dtype=torch.int64, device=masses.device)
    probe_kernel[-(-q // _BLOCKS["BQ"]), splits](
        distances.square,
        distances.spread,
        distances.gaussian,
        tables.constants,
        masses,
        heaviest,
        q,
        g,
        tables.precision,
        GAIN=_GAIN,
        SPLIT=_SPLIT,
        **_BLOCKS,
    )
    log_mass = (masses[:, 0].double() + masses[:, 1].double().log()).logsumexp(dim=0)
    order = masses[:, 2].topk(min(most, splits), dim=0).indices
    return Probe(log_mass, heaviest.gather(0, order).T)


def close(
    tables: GroupTables,
    distances: Distances,
    log_z: Tensor,
    threshold: float,
    nearest: Tensor,
    outputs: Outputs,
) -> Closed:
    """Return the groups to open, and the sums over all others except those over patches.

    If these are wanted, `distances.square` becomes the masses, and `distances.spread` these times
    min(1, s_max / s).

    Parameters
    ----------
    tables, distances
        The groups and their distances of the queries.
    log_z : Tensor
        Estimate of log Σ w, float32, (Q,).
    threshold : float
        log a of the groups to open.
    nearest : Tensor
        A group that each query opens in any case, int64, (Q,).
    outputs : Outputs
        The sums to compute.
    """
    from lemmse.estimator.fused_hybrid.group_kernel import COLUMNS, closed_kernel  # imports Triton

    (q, g), t = distances.square.shape, tables.t_length
    splits = -(-g // _SPLIT)
    first, each = COLUMNS
    columns = 1 << (first + each * t - 1).bit_length()
    opened = torch.empty(q, g, dtype=torch.int8, device=log_z.device)
    sums = torch.empty(splits, q, columns, device=log_z.device)
    closed_kernel[-(-q // _BLOCKS["BQ"]), splits](
        distances.square,
        distances.spread,
        distances.gaussian,
        distances.shift,
        tables.constants,
        tables.targets,
        log_z,
        torch.full_like(log_z, math.exp(min(threshold, _LARGEST_THRESHOLD))),
        nearest,
        opened,
        sums,
        q,
        g,
        q * g,
        tables.precision,
        T=t,
        C=columns,
        PATCH=outputs.patch,
        SPLIT=_SPLIT,
        **_BLOCKS,
    )
    total = sums.double().sum(dim=0)
    w, w2, a2 = total[:, :1], total[:, 1:2], total[:, 2:3]
    wt, wt2, a2t, a2t2 = (total[:, first + i : first + each * t : each] for i in range(each))
    empty = PosteriorSums.empty(q, t, 0, replace(outputs, patch=False), log_z.device)
    return Closed(
        opened,
        replace(
            empty,
            log_max=log_z.double().where(w[:, 0] > 0, -math.inf),
            moments=torch.cat([w, wt, wt2] if outputs.variance else [w, wt], dim=1),
            w2=w2 if outputs.ess else empty.w2,
            error_variance=torch.cat([a2, a2t, a2t2], dim=1) if outputs.error else empty.error_variance,
        ),
    )


def patch_sums(tables: GroupTables, u: Tensor, distances: Distances, basis: Basis) -> Tensor:
    """Return Σ w v along the pixels over closed groups, float64, (Q, P), after `close`.

    The mean patch of a group is μ + min(1, s_max / s) D (D + σ² I)⁻¹ (u − μ).
    """
    groups, mass, moved = tables.groups, distances.square, distances.spread
    kept = groups.variance * tables.gain
    along = mass @ groups.mean - moved @ (kept * groups.mean) + (moved @ kept) * u
    axes, mean = (torch.from_numpy(values).to(u.device).double() for values in (basis.axes, basis.mean))
    return along.double() @ axes.T + mass.sum(dim=1, keepdim=True).double() * mean
