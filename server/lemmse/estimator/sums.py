"""Posterior sums: what the weights w_km(u) of a set of keys add up to, and their exact merge.

The sums over two disjoint sets of keys merge into the sums over their union, in any order, so one class
serves a tile of keys, a shard and a machine. Weights reach from 1 down to e^(−10⁶), hence they are kept
relative to e^log_max, the largest of them so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["MEAN_ONLY", "Posterior", "PosteriorSums", "Want"]


@dataclass(frozen=True, slots=True)
class Want:
    """Which sums are wanted beside those of the mean."""

    variance: bool = False
    """Σ w t²."""
    ess: bool = False
    """Σ w²."""
    top: int = 0
    """How many of the heaviest keys to name."""

    def rows(self, t_length: int) -> int:
        """How many moments of targets of length T take part: 1 and t, or 1, t and t²."""
        return 1 + t_length * (2 if self.variance else 1)


MEAN_ONLY = Want()


@dataclass(frozen=True, slots=True)
class PosteriorSums:
    """Sums over a set of keys for Q queries, in float64; `moments` and `w2` are relative to e^log_max.

    A key that stands for n equal training patches counts n times. A sum that is not wanted has no columns.
    """

    log_max: Tensor
    """Largest log w, (Q,); −∞ where there is no key."""
    moments: Tensor
    """Σ w, Σ w t and, if wanted, Σ w t², (Q, 1 + T or 1 + 2T)."""
    w2: Tensor
    """Σ w², (Q, 1 or 0)."""
    top_log_w: Tensor
    """log w of the heaviest keys in descending order, (Q, R); −∞ where there are fewer."""
    top_key: Tensor
    """Their numbers, int64, (Q, R); −1 where there are fewer."""
    touched: Tensor
    """Keys whose distance was computed, int64, (Q,)."""

    @classmethod
    def empty(cls, queries: int, t_length: int, want: Want, device: torch.device) -> "PosteriorSums":
        """Sums over no key."""

        def full(columns: int, value: float = 0.0) -> Tensor:
            return torch.full((queries, columns), value, dtype=torch.float64, device=device)

        return cls(
            log_max=full(1, -math.inf)[:, 0],
            moments=full(want.rows(t_length)),
            w2=full(1 * want.ess),
            top_log_w=full(want.top, -math.inf),
            top_key=torch.full((queries, want.top), -1, device=device),
            touched=torch.zeros(queries, dtype=torch.int64, device=device),
        )

    @classmethod
    def join(cls, parts: Sequence["PosteriorSums"]) -> "PosteriorSums":
        """Sums of several blocks of queries, one block after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, rows: Tensor) -> "PosteriorSums":
        """Sums of some of the queries, by number."""
        return PosteriorSums(*(getattr(self, field.name)[rows] for field in fields(self)))

    def shift(self, constant: Tensor | float) -> "PosteriorSums":
        """Sums with a constant, one for all queries or one for each, added to every log w."""
        constant = torch.as_tensor(constant, dtype=torch.float64, device=self.log_max.device)
        return replace(
            self,
            log_max=self.log_max + constant,
            top_log_w=self.top_log_w + constant.reshape(-1, 1),
        )

    def merge(self, other: "PosteriorSums") -> "PosteriorSums":
        """Sums over the union of two disjoint sets of keys, of which the same sums are wanted."""
        log_max = torch.maximum(self.log_max, other.log_max)
        # Where neither has a key the maximum is −∞, and −∞ − (−∞) is no number.
        reference = log_max.clamp(min=torch.finfo(log_max.dtype).min)
        a = torch.exp(self.log_max - reference)[:, None]  # (Q, 1)
        b = torch.exp(other.log_max - reference)[:, None]
        top_log_w, top_key = self.top_log_w, self.top_key
        if top_key.shape[1]:
            top_log_w = torch.cat([top_log_w, other.top_log_w], dim=1)  # (Q, 2R)
            top_log_w, order = top_log_w.topk(top_key.shape[1], dim=1)
            top_key = torch.cat([top_key, other.top_key], dim=1).gather(1, order)
        return PosteriorSums(
            log_max=log_max,
            moments=a * self.moments + b * other.moments,
            w2=a.square() * self.w2 + b.square() * other.w2 if self.w2.shape[1] else self.w2,
            top_log_w=top_log_w,
            top_key=top_key,
            touched=self.touched + other.touched,
        )

    def posterior(self, t_length: int) -> "Posterior":
        """What the sums say about each query, for targets of length T."""
        w, wt, wt2 = self.moments.tensor_split([1, 1 + t_length], dim=1)
        mean = wt / w
        return Posterior(
            mean=mean,
            variance=(wt2 / w - mean[:, : wt2.shape[1]].square()).clamp_(min=0.0),
            ess=w.square()[:, : self.w2.shape[1]] / self.w2,
            log_density=self.log_max + w[:, 0].log(),
            top_weight=torch.exp(self.top_log_w - self.log_max[:, None]) / w,
            top_key=self.top_key,
        )


@dataclass(frozen=True, slots=True)
class Posterior:
    """The posterior of the targets given each query; float64; what was not wanted has no columns."""

    mean: Tensor
    """Σ w t / Σ w, (Q, T)."""
    variance: Tensor
    """Σ w t² / Σ w − mean², (Q, T or 0)."""
    ess: Tensor
    """Effective sample size (Σ w)² / Σ w², (Q, 1 or 0)."""
    log_density: Tensor
    """log Σ w, (Q,)."""
    top_weight: Tensor
    """Shares of the heaviest keys, (Q, R)."""
    top_key: Tensor
    """Their numbers, int64, (Q, R)."""
