"""What the kernels of the groups read: the groups for noise of one σ, and the queries.

With u and μ along the principal axes, relative to the mean of all keys, the sums over all coordinates

    ‖u − μ‖² = ‖u‖² − 2 μ·u + ‖μ‖²,     Σ a (u − μ)² = a₀ ‖u − μ‖² + Σ_i (a_i − a₀) (u_i² − 2 μ_i u_i + μ_i²),

a = D or the gain 1 / (σ² + D), are matrix products. a₀ is that of the coordinates after the R leading ones,
so that i and the products for the shift of the mean, Σ Cov(t, v) gain (u − μ), need only go over these.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lemmse.estimator.fused_hybrid.groups import GroupMoments, KeyGroups
from lemmse.index.clustering.groups import leading_count

__all__ = ["CHUNK", "CONSTANTS", "GroupQueries", "GroupTables", "LevelTables"]

CHUNK = 16
"""Coordinates are padded with zeros to a multiple of this."""
CONSTANTS = 11
"""Number of rows of `LevelTables.constants` before those of the targets."""


class LevelTables:
    """The groups of one level.

    Parameters
    ----------
    groups : GroupMoments
        The groups.
    precision : float
        Precision λ = 1/σ² of the noise.
    """

    def __init__(self, groups: GroupMoments, precision: float) -> None:
        mean, variance = groups.mean, groups.variance
        leading = leading_count(mean.shape[1])
        gain = precision / (1 + precision * variance)
        slope = groups.cross * gain[:, None]  # (G, T, P)
        factors, others, at_mean = [], [], []
        for a in (variance, gain):
            # Without other coordinates, any one of them does.
            other = a[:, -1]
            excess = a - other[:, None]
            factors += [excess, -2 * excess * mean]
            others.append(other)
            at_mean.append((excess * mean.square()).sum(dim=1))
        log_n, ratio = groups.n.log(), precision * variance
        trace = ratio.sum(dim=1)
        unexplained = (groups.target_variance - (slope * groups.cross).sum(dim=2)).clamp(min=0.0)
        self.groups, self._gain = groups, gain
        self.means = _columns(mean)
        """μ, (KP, G)."""
        self.leading = torch.cat(
            [_columns(x[:, :leading]) for x in (*factors, *slope.unbind(dim=1))]
        ).contiguous()
        """D − D₀, −2 μ (D − D₀), the same of the gain, and Cov(t, v) · gain for each target, of the leading
        coordinates, ((4 + T) · KR, G)."""
        self.constants = torch.stack(
            [
                log_n,
                (2 * log_n).sqrt(),
                log_n - 0.5 * trace,
                log_n - 0.5 * ratio.log1p().sum(dim=1),
                trace,
                0.5 * ratio.square().sum(dim=1),
                mean.square().sum(dim=1),
                others[0],
                at_mean[0],
                others[1],
                at_mean[1],
                *groups.target.T,
                *-(slope * mean[:, None]).sum(dim=2).T,
                *unexplained.T,
            ]
        )
        """log n; s_max; log n − ½ λ Σ D; log n − ½ Σ log(1 + λ D); λ Σ D; ½ λ² Σ D²; ‖μ‖²; D₀; Σ (D − D₀) μ²;
        the same two of the gain; and for each target its mean, its slope at the mean key, and its residual
        variance after its regression on the key, (CONSTANTS + 3T, G)."""

    @cached_property
    def shrinkage(self) -> Tensor:
        """D / (D + σ²), by which a group moves its mean patch towards the query, (KP, G)."""
        return _columns(self.groups.variance * self._gain)


@dataclass(frozen=True)
class GroupTables:
    """The groups of both levels, for noise of one precision."""

    groups: KeyGroups
    precision: float

    @cached_property
    def cells(self) -> LevelTables:
        """The tables of the cells."""
        return LevelTables(self.groups.cells, self.precision)

    @cached_property
    def leaves(self) -> LevelTables:
        """The tables of the groups of the cells."""
        return LevelTables(self.groups.groups, self.precision)


class GroupQueries:
    """Queries as the kernels of the groups read them.

    Parameters
    ----------
    u : Tensor
        The queries along the principal axes, float32, (Q, P).
    extent : int
        Number E of numbers of the extent of groups.
    """

    def __init__(self, u: Tensor, extent: int) -> None:
        self.u = torch.nn.functional.pad(u, (0, -u.shape[1] % CHUNK)).contiguous()
        """The queries, padded, (Q, KP)."""
        self.square = u.square().sum(dim=1)
        """‖u‖², (Q,)."""
        others = u[:, extent - 1 :].norm(dim=1)
        self.extent = torch.cat([u[:, : extent - 1].T, others[None]]).contiguous()
        """The coordinates of the extent, (E, Q)."""

    def __len__(self) -> int:
        """Return the number of queries, Q."""
        return len(self.u)


def _columns(x: Tensor) -> Tensor:
    """Return numbers of groups, (G, n), by coordinate, padded with zeros to a multiple of CHUNK, (K, G)."""
    return torch.nn.functional.pad(x.T, (0, 0, 0, -x.shape[1] % CHUNK)).contiguous()
