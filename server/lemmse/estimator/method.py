"""How to sum over keys: the mode, and what it takes to know."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFAULT_K", "DEFAULT_NPROBE", "Known", "Method", "Rows"]

Rows = NDArray[np.int64] | slice
"""Which of the queries."""

DEFAULT_K = 1000
"""Neighbours that `topk` sums unless told otherwise."""
DEFAULT_NPROBE = 32
"""Cells that `topk` searches unless told otherwise."""
_MARGIN = 7.0
"""How many e-folds what one group may hide at most lies below the accuracy, since many may hide as much."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What a first look at all keys found, of which those to be summed are some."""

    log_z: NDArray[np.float64]
    """About log Σ w over all keys, (Q,)."""
    key: NDArray[np.int64]
    """Number of a key in the leaf that weighs most of those to be summed; −1 if it is not known, (Q,)."""

    def of(self, rows: Rows, constant: float = 0.0) -> "Known":
        """That of some of the queries, where every log w is less by a constant."""
        return Known(self.log_z[rows] - constant, self.key[rows])


@dataclass(frozen=True, slots=True)
class Method:
    """How to sum over the keys of a stratum."""

    mode: str
    """exact, topk or hybrid; or look, which is what hybrid finds of Σ w before it opens anything."""
    k: int = DEFAULT_K
    """Neighbours that topk sums."""
    nprobe: int = DEFAULT_NPROBE
    """Cells that topk searches."""
    threshold: float = 0.0
    """What a group that hybrid leaves closed may hide, as a logarithm."""
    budget: int | None = None
    """Keys that hybrid sums at most, for each query."""
    error_scale: float = 1.0
    """What the typical error of hybrid is multiplied by for the error that few pixels exceed."""
    known: Known | None = None
    """What hybrid knows before it opens anything, for each query; None where it has a first look itself."""

    def of(self, rows: Rows, constant: float = 0.0) -> "Method":
        """How to sum for some of the queries, where every log w is less by a constant."""
        return self if self.known is None else replace(self, known=self.known.of(rows, constant))

    def certifying(self, accuracy_db: float, keys: int) -> "Method":
        """How to sum for bounds on the error, of so many distinct keys."""
        # Beyond a sixteenth of the keys the exact sum, which is one product, would be done sooner.
        budget = max(1, keys // 16) if self.budget is None else self.budget
        return replace(self, threshold=-accuracy_db / 20 * math.log(10) - _MARGIN, budget=budget)

    def unseeing(self) -> "Method":
        """How to sum for patches of which nothing was observed: all keys are equally near, k say nothing."""
        return replace(self, mode="exact")
