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

__all__ = ["HEAVIEST", "MEAN_ONLY", "Posterior", "PosteriorSums", "Want"]


@dataclass(frozen=True, slots=True)
class Want:
    """Which sums are wanted beside those of the mean."""

    variance: bool = False
    """Σ w t²."""
    ess: bool = False
    """Σ w²."""
    top: int = 0
    """How many of the heaviest keys to name."""
    error: bool = False
    """What the moments may typically be off by."""
    bounds: bool = False
    """What they may be off by at most."""
    patch: bool = False
    """Σ w v and, with the variance, Σ w v²: the whole patches that the targets are the centres of."""

    def rows(self, t_length: int) -> int:
        """How many moments of targets of length T take part: 1 and t, or 1, t and t²."""
        return 1 + t_length * (2 if self.variance else 1)

    def patch_rows(self, p_length: int) -> int:
        """How many numbers of patches of length P take part: none, v, or v and v²."""
        return p_length * (2 if self.variance else 1) if self.patch else 0


MEAN_ONLY = Want()
HEAVIEST = Want(top=1)


@dataclass(frozen=True, slots=True)
class PosteriorSums:
    """Sums over a set of keys for Q queries, in float64, relative to e^log_max.

    A key that stands for n equal training patches counts n times. A sum that is not wanted has no columns.
    """

    log_max: Tensor
    """Largest log w, (Q,); −∞ where there is no key."""
    moments: Tensor
    """Σ w, Σ w t and, if wanted, Σ w t², (Q, 1 + T or 1 + 2T)."""
    patches: Tensor
    """Σ w v and, if wanted, Σ w v², (Q, 0, P or 2P)."""
    w2: Tensor
    """Σ w², (Q, 1 or 0)."""
    doubt: Tensor
    """Σ a², Σ a² t, Σ a² t² over groups of keys that were not summed but estimated, whose sum of weights may
    be off by a; relative to e^(2 log_max), (Q, 1 + 2T or 0)."""
    bounds: Tensor
    """At least Σ w, and at least and at most Σ w (t − h) for a given h, (Q, 1 + 2T or 0)."""
    top_log_w: Tensor
    """log w of the heaviest keys in descending order, (Q, R); −∞ where there are fewer."""
    top_key: Tensor
    """Their numbers, int64, (Q, R); −1 where there are fewer."""
    touched: Tensor
    """Distinct keys whose distance was computed, int64, (Q,)."""

    @classmethod
    def empty(
        cls, queries: int, t_length: int, p_length: int, want: Want, device: torch.device
    ) -> "PosteriorSums":
        """Sums over no key."""

        def full(columns: int, value: float = 0.0) -> Tensor:
            return torch.full((queries, columns), value, dtype=torch.float64, device=device)

        return cls(
            log_max=full(1, -math.inf)[:, 0],
            moments=full(want.rows(t_length)),
            patches=full(want.patch_rows(p_length)),
            w2=full(1 * want.ess),
            doubt=full((1 + 2 * t_length) * want.error),
            bounds=full((1 + 2 * t_length) * want.bounds),
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

    def put(self, rows: Tensor, other: "PosteriorSums") -> "PosteriorSums":
        """Sums with others in place of those of some queries, by number."""
        return PosteriorSums(
            *(
                getattr(self, field.name).index_copy(0, rows, getattr(other, field.name))
                for field in fields(self)
            )
        )

    def shift(self, constant: Tensor | float) -> "PosteriorSums":
        """Sums with a constant, one for all queries or one for each, added to every log w."""
        constant = torch.as_tensor(constant, dtype=torch.float64, device=self.log_max.device)
        return replace(
            self,
            log_max=self.log_max + constant,
            top_log_w=self.top_log_w + constant.reshape(-1, 1),
        )

    def certain(self, t_length: int, want: Want, about: Tensor | None) -> "PosteriorSums":
        """The sums, whose keys were all summed one by one, with what is wanted about their errors.

        `about` is the h of bounds, (Q, T).
        """
        w, wt = self.moments[:, :1], self.moments[:, 1 : 1 + t_length]
        doubt, bounds = self.doubt, self.bounds
        if want.error:
            doubt = w.new_zeros(len(w), 1 + 2 * t_length)
        if want.bounds and about is not None:
            deviation = wt - about * w
            bounds = torch.cat([w, deviation, deviation], dim=1)
        return replace(self, doubt=doubt, bounds=bounds)

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
            patches=a * self.patches + b * other.patches,
            w2=a.square() * self.w2 + b.square() * other.w2,
            doubt=a.square() * self.doubt + b.square() * other.doubt,
            bounds=a * self.bounds + b * other.bounds,
            top_log_w=top_log_w,
            top_key=top_key,
            touched=self.touched + other.touched,
        )

    def posterior(self, t_length: int) -> "Posterior":
        """What the sums say about each query, for targets of length T."""
        w, wt, wt2 = self.moments.tensor_split([1, 1 + t_length], dim=1)
        p_length = self.patches.shape[1] // (2 if wt2.shape[1] else 1)
        mean, variance = _mean_and_variance(wt, wt2, w)
        wv, wv2 = self.patches.tensor_split([p_length], dim=1)
        patch, patch_variance = _mean_and_variance(wv, wv2, w)
        return Posterior(
            mean=mean,
            variance=variance,
            patch=patch,
            patch_variance=patch_variance,
            ess=w.square()[:, : self.w2.shape[1]] / self.w2,
            error=self._error(mean, w),
            error_bound=self._error_bound(t_length),
            log_density=self.log_max + w[:, 0].log(),
            top_weight=torch.exp(self.top_log_w - self.log_max[:, None]) / w,
            top_key=self.top_key,
        )

    def _error(self, mean: Tensor, w: Tensor) -> Tensor:
        """√(Σ a² (t − mean)²) / Σ w: independent errors of the groups add up in squares."""
        if not self.doubt.shape[1]:
            return self.doubt
        a2, a2t, a2t2 = self.doubt.tensor_split([1, 1 + mean.shape[1]], dim=1)
        return (a2t2 - 2 * mean * a2t + mean.square() * a2).clamp_(min=0.0).sqrt_() / w

    def _error_bound(self, t_length: int) -> Tensor:
        """What |Σ w (t − h) / Σ w| = |mean − h| can be at most."""
        if not self.bounds.shape[1]:
            return self.bounds
        least, low, high = self.bounds.tensor_split([1, 1 + t_length], dim=1)
        # Of infinite bounds merging may make what is no number.
        return (torch.maximum(low.abs(), high.abs()) / least).nan_to_num(nan=math.inf, posinf=math.inf)


def _mean_and_variance(wt: Tensor, wt2: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Σ w t / Σ w and, where there is a Σ w t², what it exceeds the square of that by."""
    mean = wt / w
    return mean, (wt2 / w - mean[:, : wt2.shape[1]].square()).clamp_(min=0.0)


@dataclass(frozen=True, slots=True)
class Posterior:
    """The posterior of the targets given each query; float64; what was not wanted has no columns."""

    mean: Tensor
    """Σ w t / Σ w, (Q, T)."""
    variance: Tensor
    """Σ w t² / Σ w − mean², (Q, T or 0)."""
    patch: Tensor
    """Mean of the whole patches, Σ w v / Σ w, (Q, P or 0)."""
    patch_variance: Tensor
    """Variance of each of their coordinates, (Q, P or 0)."""
    ess: Tensor
    """Effective sample size (Σ w)² / Σ w², (Q, 1 or 0)."""
    error: Tensor
    """Typical error of the mean, up to a factor that calibration finds, (Q, T or 0)."""
    error_bound: Tensor
    """What |mean − h| can be at most, for the h that bounds were asked about, (Q, T or 0)."""
    log_density: Tensor
    """log Σ w, (Q,)."""
    top_weight: Tensor
    """Shares of the heaviest keys, (Q, R)."""
    top_key: Tensor
    """Their numbers, int64, (Q, R)."""
