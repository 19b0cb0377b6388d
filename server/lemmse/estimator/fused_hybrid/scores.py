"""Distances of queries to groups, by matrix products in float32.

With u and μ along the principal axes, relative to the mean of all keys, and a variance D of each coordinate,

    Σ a (u − μ)² = Σ a u² − 2 Σ a μ u + Σ a μ²     for a = 1, D and the gain 1 / (σ² + D)

are one product each, and so is the shift of the mean of each target, Σ Cov(t, v) gain (u − μ).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lemmse.estimator.fused_hybrid.groups import KeyGroups

__all__ = ["Distances", "GroupTables"]


@dataclass(frozen=True, slots=True)
class Distances:
    """What Q queries have with each of G groups."""

    square: Tensor
    """‖u − μ‖², (Q, G)."""
    spread: Tensor
    """Σ D (u − μ)², (Q, G)."""
    gaussian: Tensor
    """Σ (u − μ)² / (σ² + D), (Q, G)."""
    shift: Tensor
    """Shift of the mean of each target, (T, Q, G)."""


class GroupTables:
    """The factors of these products for noise of one σ.

    Parameters
    ----------
    groups : KeyGroups
        The groups.
    precision : float
        Precision λ = 1/σ² of the noise.
    """

    def __init__(self, groups: KeyGroups, precision: float) -> None:
        mean, variance = groups.mean, groups.variance
        gain = precision / (1 + precision * variance)
        self.groups, self.precision, self.gain = groups, precision, gain
        ones = torch.ones_like(mean[:, :1])
        self._square = torch.cat([ones, -2 * mean], dim=1).T
        self._spread = torch.cat([variance, -2 * variance * mean], dim=1).T
        self._gaussian = torch.cat([gain, -2 * gain * mean], dim=1).T
        self._constant = [(a * mean.square()).sum(dim=1) for a in (1.0, variance, gain)]
        slope = groups.cross * gain[:, None]
        self._slope = slope.permute(1, 2, 0).contiguous()  # (T, P, G)
        self._slope_at_mean = -(slope * mean[:, None]).sum(dim=2).T.contiguous()  # (T, G)
        ratio = precision * variance
        log_n, trace = groups.n.log(), ratio.sum(dim=1)
        self.constants = torch.stack(
            [
                log_n,
                (2 * log_n).sqrt(),
                log_n - 0.5 * trace,
                log_n - 0.5 * ratio.log1p().sum(dim=1),
                trace,
                0.5 * ratio.square().sum(dim=1),
            ]
        )
        """log n; s_max; log n − ½ λ Σ D; log n − ½ Σ log(1 + λ D); λ Σ D; ½ λ² Σ D², (6, G)."""
        unexplained = (groups.target_variance - (slope * groups.cross).sum(dim=2)).clamp(min=0.0)
        self.targets = torch.cat([groups.target.T, unexplained.T]).contiguous()
        """Mean of each target, and its residual variance after its regression on the key, (2T, G)."""

    @property
    def t_length(self) -> int:
        """Length of the targets, T."""
        return self.groups.target.shape[1]

    def distances(self, u: Tensor) -> Distances:
        """Return the distances of queries u along the principal axes, (Q, P)."""
        squares = torch.cat([u.square(), u], dim=1)
        one, spread, gain = self._constant
        norms = torch.cat([u.square().sum(dim=1, keepdim=True), u], dim=1)
        return Distances(
            square=torch.addmm(one, norms, self._square),
            spread=torch.addmm(spread, squares, self._spread),
            gaussian=torch.addmm(gain, squares, self._gaussian),
            shift=torch.baddbmm(self._slope_at_mean[:, None], u.expand(self.t_length, -1, -1), self._slope),
        )

    def bytes_of_query(self) -> int:
        """Return the size of what a query has for all groups: distances, masses, and two bytes for each."""
        return len(self.groups) * (4 * (3 + self.t_length + 2) + 2)
