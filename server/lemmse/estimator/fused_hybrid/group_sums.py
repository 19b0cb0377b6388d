"""The estimate of Σ w, the groups to open, and the sums over all others."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lemmse.estimator.fused_hybrid.scores import Distances, GroupTables
from lemmse.estimator.hybrid.traversal import LARGEST_THRESHOLD
from lemmse.estimator.sums import Outputs, PosteriorSums

__all__ = ["Closed", "Probe", "close", "patch_sums", "probe"]

_GAIN = 2.0
"""Largest amount by which a log mass may exceed Jensen's bound before any group is opened."""
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
    masses: Tensor
    """Σ w of each of these, and this times min(1, s_max / s), if there are sums over patches, (2, Q, G)."""


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
    summed: Tensor,
    outputs: Outputs,
) -> Closed:
    """Return the groups to open, and the sums over all others except those over patches.

    Parameters
    ----------
    tables, distances
        The groups and their distances of the queries.
    log_z : Tensor
        Estimate of log Σ w, float32, (Q,).
    threshold : float
        Groups with a larger log a are opened.
    summed : Tensor
        Groups that are neither opened nor among the others, int64, (Q, n).
    outputs : Outputs
        The sums to compute.
    """
    from lemmse.estimator.fused_hybrid.group_kernel import closed_kernel  # imports Triton

    (q, g), t = distances.square.shape, tables.t_length
    splits = -(-g // _SPLIT)
    done = torch.zeros(q, g, dtype=torch.int8, device=log_z.device).scatter_(1, summed, 1)
    opened = torch.empty_like(done)
    sums = torch.empty(splits, t, 7, q, device=log_z.device)
    masses = torch.empty(2 * outputs.patch, q, g, device=log_z.device)
    closed_kernel[-(-q // _BLOCKS["BQ"]), splits, t](
        distances.square,
        distances.spread,
        distances.gaussian,
        distances.shift,
        tables.constants,
        tables.targets,
        log_z,
        torch.full_like(log_z, math.exp(min(threshold, float(LARGEST_THRESHOLD)))),
        done,
        opened,
        sums,
        masses,
        q,
        g,
        q * g,
        tables.precision,
        T=t,
        PATCH=outputs.patch,
        SPLIT=_SPLIT,
        **_BLOCKS,
    )
    total = sums.double().sum(dim=0).permute(1, 2, 0)  # (7, Q, T)
    w, w2, a2 = (one[:, :1] for one in total[:3])
    wt, wt2, a2t, a2t2 = total[3:]
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
        masses,
    )


def patch_sums(tables: GroupTables, u: Tensor, masses: Tensor, axes: Tensor, mean: Tensor) -> Tensor:
    """Return Σ w v along the pixels over closed groups, float64, (Q, P), given their masses of `close`.

    The mean patch of a group is μ + min(1, s_max / s) D (D + σ² I)⁻¹ (u − μ).
    """
    groups, (mass, moved) = tables.groups, masses
    kept = groups.variance * tables.gain
    along = mass @ groups.mean - moved @ (kept * groups.mean) + (moved @ kept) * u
    sums: Tensor = along.double() @ axes.T + mass.sum(dim=1, keepdim=True).double() * mean
    return sums
