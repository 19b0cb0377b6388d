"""How to sum over keys: the mode, and what it takes to know."""

import math
from dataclasses import dataclass, replace

__all__ = ["DEFAULT_K", "DEFAULT_NPROBE", "Method"]

DEFAULT_K = 1000
"""Neighbours that `topk` sums unless told otherwise."""
DEFAULT_NPROBE = 32
"""Cells that `topk` searches unless told otherwise."""
_MARGIN = 7.0
"""How many e-folds what one group may hide at most lies below the accuracy, since many may hide as much."""


@dataclass(frozen=True, slots=True)
class Method:
    """How to sum over the keys of a stratum."""

    mode: str
    """exact, topk or hybrid."""
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

    def certifying(self, accuracy_db: float, keys: int) -> "Method":
        """How to sum for bounds on the error, of so many distinct keys."""
        # Beyond a sixteenth of the keys the exact sum, which is one product, would be done sooner.
        budget = max(1, keys // 16) if self.budget is None else self.budget
        return replace(self, threshold=-accuracy_db / 20 * math.log(10) - _MARGIN, budget=budget)

    def unseeing(self) -> "Method":
        """How to sum for patches of which nothing was observed: all keys are equally near, k say nothing."""
        return replace(self, mode="exact")
