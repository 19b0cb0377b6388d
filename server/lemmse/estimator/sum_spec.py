"""The specification of posterior sums: mode and settings, the sums to compute, and cancellation."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, never
from lemmse.estimator.sums import MEAN_ONLY, Outputs

__all__ = ["DEFAULT_K", "DEFAULT_NPROBE", "EXACT", "NormalizerEstimate", "Rows", "SumSpec"]

Rows = NDArray[np.int64] | slice
"""Numbers of a subset of the queries."""

DEFAULT_K = 1000
"""Default number of neighbours that topk sums."""
DEFAULT_NPROBE = 32
"""Default number of cells that topk searches."""


@dataclass(frozen=True, slots=True, eq=False)
class NormalizerEstimate:
    """An estimate of the normalizing constant Σ w of each query, made before any group is opened."""

    log_z: NDArray[np.float64]
    """Estimate of log Σ w over all keys that count, including those in other shards, (Q,)."""
    key: NDArray[np.int64]
    """Number of a key in the leaf with the largest weight, among the keys to sum; −1 if unknown, (Q,)."""


@dataclass(frozen=True, slots=True, eq=False)
class SumSpec:
    """The specification of sums over keys for Q queries."""

    mode: str = "exact"
    """"exact", "topk", "hybrid", or "estimate" for the estimate of log Σ w with which hybrid begins."""
    k: int = DEFAULT_K
    """Number of neighbours that topk sums, >= 1; all keys if there are fewer."""
    nprobe: int = DEFAULT_NPROBE
    """Number of cells that topk searches, >= 1; more are searched if these contain fewer than k keys."""
    threshold: float = 0.0
    """Hybrid opens a group if the log of its possible error, relative to Σ w, exceeds this threshold."""
    budget: int | None = None
    """Largest number of keys that hybrid sums for a query, >= 1; None for no limit."""
    normalizer: NormalizerEstimate | None = None
    """Estimate of Σ w with which hybrid begins; None to compute it from the keys to sum."""
    outputs: Outputs = MEAN_ONLY
    """The sums to compute in addition to those for the mean."""
    reference: Tensor | None = None
    """Reference mean h of the bounds, float64, (Q, T); required for `outputs.bounds`."""
    cancelled: Cancel = never
    """Polled between tiles of work; when it returns True, Cancelled is raised."""

    def rows(self, rows: Rows) -> "SumSpec":
        """Return the specification for the queries with the given numbers."""
        normalizer, reference = self.normalizer, self.reference
        if normalizer is not None:
            normalizer = NormalizerEstimate(normalizer.log_z[rows], normalizer.key[rows])
        if reference is not None:
            reference = reference[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
        return replace(self, normalizer=normalizer, reference=reference)

    def unnormalized(self, log_norm: float) -> "SumSpec":
        """Return the specification for weights that lack a factor e^log_norm of the estimate of Σ w."""
        if self.normalizer is None:
            return self
        normalizer = replace(self.normalizer, log_z=self.normalizer.log_z - log_norm)
        return replace(self, normalizer=normalizer)

    def exact(self) -> "SumSpec":
        """Return the specification with mode exact.

        Queries without observed pixels use it: all their keys are equidistant, so that there are neither
        nearest keys nor groups to open.
        """
        return replace(self, mode="exact")

    def picklable(self) -> "SumSpec":
        """Return the specification without `cancelled`, which another process cannot poll."""
        return replace(self, cancelled=never)


EXACT = SumSpec()
"""The sums for the mean, over all keys."""
