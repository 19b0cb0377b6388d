"""How to sum over the keys: the mode and its settings, which sums to compute, and when to stop."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, never
from lemmse.estimator.sums import MEAN_ONLY, Outputs

__all__ = ["DEFAULT_K", "DEFAULT_NPROBE", "EXACT", "NormalizerEstimate", "Rows", "SumSpec"]

Rows = NDArray[np.int64] | slice
"""Numbers of some of the queries."""

DEFAULT_K = 1000
"""Neighbours that `topk` sums by default."""
DEFAULT_NPROBE = 32
"""Cells that `topk` searches by default."""


@dataclass(frozen=True, slots=True, eq=False)
class NormalizerEstimate:
    """An estimate of the normalizing constant Σ w of each query, made before any group is opened."""

    log_z: NDArray[np.float64]
    """Estimate of log Σ w over all keys that count, those of other shards included, (Q,)."""
    key: NDArray[np.int64]
    """Number of a key in the leaf of largest weight among the keys to be summed; −1 if unknown, (Q,)."""


@dataclass(frozen=True, slots=True, eq=False)
class SumSpec:
    """How to sum over the keys for Q queries."""

    mode: str = "exact"
    """"exact", "topk" or "hybrid"; or "estimate", the estimate of log Σ w that hybrid begins with."""
    k: int = DEFAULT_K
    """Neighbours that topk sums, >= 1; all keys if there are fewer."""
    nprobe: int = DEFAULT_NPROBE
    """Cells that topk searches, >= 1; more if these hold fewer than k keys."""
    threshold: float = 0.0
    """Hybrid opens a group whose possible error, relative to Σ w, has a logarithm above this threshold."""
    budget: int | None = None
    """Largest number of keys that hybrid evaluates for a query, >= 1; None for no limit."""
    normalizer: NormalizerEstimate | None = None
    """Estimate of Σ w that hybrid starts from; None to make one from the keys at hand."""
    outputs: Outputs = MEAN_ONLY
    """Which sums to compute beside those of the mean."""
    reference: Tensor | None = None
    """Reference mean h of the bounds, float64, (Q, T); required for `outputs.bounds`."""
    cancelled: Cancel = never
    """Polled between tiles of work; when it returns true, the sums end with the error Cancelled."""

    def rows(self, rows: Rows) -> "SumSpec":
        """Return the specification for some of the queries, given by number."""
        normalizer, reference = self.normalizer, self.reference
        if normalizer is not None:
            normalizer = NormalizerEstimate(normalizer.log_z[rows], normalizer.key[rows])
        if reference is not None:
            reference = reference[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
        return replace(self, normalizer=normalizer, reference=reference)

    def unnormalized(self, log_norm: float) -> "SumSpec":
        """Return the specification for weights without a factor e^log_norm that the estimate of Σ w has."""
        if self.normalizer is None:
            return self
        normalizer = replace(self.normalizer, log_z=self.normalizer.log_z - log_norm)
        return replace(self, normalizer=normalizer)

    def exact(self) -> "SumSpec":
        """Return the specification of the sum over all keys.

        Queries of which no pixel was observed take it: all keys are equidistant, so that neither nearest keys
        nor groups to open exist.
        """
        return replace(self, mode="exact")

    def picklable(self) -> "SumSpec":
        """Return the specification without `cancelled`, which another process cannot poll."""
        return replace(self, cancelled=never)


EXACT = SumSpec()
"""The sums of the mean over all keys."""
