"""The estimate of Σ w, the groups to open, and the sums over all others."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lemmse.estimator.fused_hybrid.tables import CHUNK, GroupQueries, LevelTables
from lemmse.estimator.fused_hybrid.visits import PART, Visits
from lemmse.estimator.hybrid.traversal import LARGEST_THRESHOLD
from lemmse.estimator.sums import Outputs, PosteriorSums

__all__ = ["BLOCK", "ClosedSums", "Probe", "probe"]

BLOCK = 64
"""Number of queries of a program."""
_GAIN = 2.0
"""Largest amount by which a log mass may exceed Jensen's bound before any group is opened."""
_KEY_MARGIN = 1.0
"""A cell is opened if a key in its box may have e^−1 of the tolerated error."""


class Probe(NamedTuple):
    """What the moments of some groups say of each query that visits them, part by part of the groups."""

    log_mass: Tensor
    """Estimate of log Σ w, float64, (V,)."""
    largest: Tensor
    """The largest estimated log mass of a group, float32, (V,)."""
    group: Tensor
    """The group that has it, int64, (V,)."""


def probe(tables: LevelTables, precision: float, queries: GroupQueries, visits: Visits) -> Probe:
    """Return estimates of Σ w, and the groups with the largest masses."""
    from lemmse.estimator.fused.launch import starting  # imports Triton
    from lemmse.estimator.fused_hybrid.group_kernel import probe_kernel

    count, device = visits.entries, queries.u.device
    masses = torch.empty(3, count, device=device)
    heaviest = torch.empty(count, dtype=torch.int64, device=device)
    with starting(device):
        probe_kernel[(len(visits.blocks),)](
            *_inputs(tables, queries, visits),
            masses,
            heaviest,
            len(tables.groups),
            count,
            precision,
            GAIN=_GAIN,
            **_settings(tables, queries),
        )
    return Probe(masses[0].double() + masses[1].double().log(), masses[2], heaviest)


class ClosedSums:
    """The sums over groups that stay closed, of both levels, and the choice of those to open.

    Parameters
    ----------
    queries : GroupQueries
        The queries.
    precision : float
        Precision λ = 1/σ² of the noise.
    log_z : Tensor
        Estimate of log Σ w, float32, (Q,).
    threshold : float
        Groups with a larger log a are opened.
    t_length : int
        Length T of the targets.
    outputs : Outputs
        The sums to compute.
    """

    def __init__(
        self,
        queries: GroupQueries,
        precision: float,
        log_z: Tensor,
        threshold: float,
        t_length: int,
        outputs: Outputs,
    ) -> None:
        self._queries, self._precision, self._log_z = queries, precision, log_z
        self._t_length, self._outputs = t_length, outputs
        threshold = min(threshold, float(LARGEST_THRESHOLD))
        self._limit = math.exp(threshold)
        tolerated = threshold - _KEY_MARGIN + log_z
        self._radius = (-2 / precision * tolerated).clamp(min=-1.0)  # below 0 if no single key counts
        self._sums = torch.zeros(3 + 4 * t_length, len(queries), device=log_z.device)
        self._patches = torch.zeros_like(queries.u) if outputs.patch else queries.u[:0]

    def open_cells(self, tables: LevelTables, visits: Visits, forced: Tensor) -> Tensor:
        """Return which cells each query opens, and add the sums over all others.

        A cell that has few decisive keys by its moments is opened if its box may contain one, and neglected
        otherwise. One that almost has is opened at a lower threshold if its box may contain one.

        Parameters
        ----------
        tables : LevelTables
            The cells.
        visits : Visits
            Visits of all queries to all cells.
        forced : int32, (C, Q)
            Cells with a number >= 0 are opened.

        Returns
        -------
        Tensor
            int8, (C, Q).
        """
        opened = self._open(tables, visits, forced, self._queries.extent, tables.groups.low.shape[0])
        return opened.view(len(tables.groups), -1)

    def open_groups(self, tables: LevelTables, visits: Visits, forced: Tensor) -> Tensor:
        """Return which groups of open cells to open, int8, (V,), and add the sums over all others.

        Parameters
        ----------
        tables : LevelTables
            The groups.
        visits : Visits
            Visits of queries to the groups of the cells that they open.
        forced : int32, (N,)
            The group that each visitor opens in any case, or −1.
        """
        return self._open(tables, visits, forced, self._queries.extent, 0)

    def _open(
        self, tables: LevelTables, visits: Visits, forced: Tensor, extent: Tensor, extents: int
    ) -> Tensor:
        from lemmse.estimator.fused.launch import starting  # imports Triton
        from lemmse.estimator.fused_hybrid.group_kernel import close_kernel

        opened = torch.empty(visits.pairs, dtype=torch.int8, device=forced.device)
        with starting(forced.device):
            close_kernel[(len(visits.blocks),)](
                *_inputs(tables, self._queries, visits),
                tables.shrinkage if self._outputs.patch else tables.means,
                self._log_z,
                self._limit,
                extent,
                tables.groups.low,
                tables.groups.high,
                self._radius,
                forced,
                opened,
                self._sums,
                self._patches,
                len(self._queries),
                len(tables.groups),
                self._precision,
                E=extents,
                T=self._t_length,
                PATCH=self._outputs.patch,
                **_settings(tables, self._queries),
            )
        return opened

    def sums(self, axes: Tensor, mean: Tensor) -> PosteriorSums:
        """Return the posterior sums over all groups that stayed closed, given the principal axes and mean."""
        t, outputs = self._t_length, self._outputs
        w, w2, a2 = self._sums[:3].double()[:, :, None].unbind()
        wt, wt2, a2t, a2t2 = self._sums[3:].double().view(t, 4, -1).permute(1, 2, 0)
        empty = PosteriorSums.empty(len(w), t, 0, replace(outputs, patch=False), w.device)
        along = self._patches[:, : len(mean)].double()
        return replace(
            empty,
            log_max=self._log_z.double().where(w[:, 0] > 0, -math.inf),
            moments=torch.cat([w, wt, wt2] if outputs.variance else [w, wt], dim=1),
            patches=along @ axes.T + w * mean if outputs.patch else empty.patches,
            w2=w2 if outputs.ess else empty.w2,
            error_variance=torch.cat([a2, a2t, a2t2], dim=1) if outputs.error else empty.error_variance,
        )


def _inputs(tables: LevelTables, queries: GroupQueries, visits: Visits) -> tuple[Tensor, ...]:
    """Return the first arguments of both kernels."""
    return (
        queries.u,
        queries.square,
        tables.means,
        tables.leading,
        tables.constants,
        visits.query,
        visits.blocks,
    )


def _settings(tables: LevelTables, queries: GroupQueries) -> dict[str, Any]:
    targets = tables.groups.target.shape[1]
    return {
        "CHUNKS": queries.u.shape[1] // CHUNK,
        "LEADING": len(tables.leading) // ((4 + targets) * CHUNK),
        "BQ": BLOCK,
        "BG": PART,
        "num_warps": 4,
    }
