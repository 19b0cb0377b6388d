"""Posterior sums: the sums of the weights w_km(u) over a set of keys, and their exact merge.

The sums over two disjoint sets of keys merge into the sums over their union, in any order, so that one class
serves tiles, shards and workers. Weights range from 1 down to e^(−10⁶); therefore sums are stored relative to
e^log_max, the largest weight so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

__all__ = ["HEAVIEST", "MEAN_ONLY", "Outputs", "Posterior", "PosteriorSums"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """The sums to compute in addition to those for the mean, Σ w and Σ w t."""

    variance: bool = False
    """Σ w t²."""
    ess: bool = False
    """Σ w²."""
    top: int = 0
    """Number of heaviest keys to list."""
    error: bool = False
    """Whether to compute the error variance of the sums over groups of keys."""
    bounds: bool = False
    """Whether to compute bounds on the sums over groups of keys, for a certified error."""
    patch: bool = False
    """Whether to compute Σ w v and, with the variance, Σ w v² of the clean patches v: for whole patches."""

    def rows(self, t_length: int) -> int:
        """Return the number of target sums for length T: 1 + T or, with the variance, 1 + 2T."""
        return 1 + t_length * (2 if self.variance else 1)

    def patch_rows(self, p_length: int) -> int:
        """Return the number of patch sums for length P: 0, P or, with the variance, 2P."""
        return p_length * (2 if self.variance else 1) if self.patch else 0


MEAN_ONLY = Outputs()
HEAVIEST = Outputs(top=1)


@dataclass(frozen=True, slots=True)
class PosteriorSums:
    """Posterior sums over a set of keys for Q queries, float64, relative to e^log_max.

    A key of multiplicity n counts n times. Sums that were not requested have no columns.
    """

    log_max: Tensor
    """Largest log w, (Q,); −∞ if there is no key."""
    moments: Tensor
    """Σ w, Σ w t and, with the variance, Σ w t², (Q, 1 + T or 1 + 2T)."""
    patches: Tensor
    """Σ w v and, with the variance, Σ w v², of the clean patches v, (Q, 0, P or 2P)."""
    w2: Tensor
    """Σ w², (Q, 1 or 0)."""
    error_variance: Tensor
    """Σ a², Σ a² t and Σ a² t² over the unopened groups, where a is the standard error of a group's Σ w;
    relative to e^(2 log_max), (Q, 1 + 2T or 0)."""
    bounds: Tensor
    """Lower bound of Σ w, lower and upper bound of Σ w (t − h) for the reference mean h, (Q, 1 + 2T or 0)."""
    top_log_w: Tensor
    """log w of the heaviest keys, in descending order, (Q, R); −∞ if there are fewer."""
    top_key: Tensor
    """Numbers of the heaviest keys, int64, (Q, R); −1 if there are fewer."""
    keys_evaluated: Tensor
    """Number of distinct keys evaluated, int64, (Q,)."""

    @classmethod
    def empty(
        cls, queries: int, t_length: int, p_length: int, outputs: Outputs, device: torch.device
    ) -> "PosteriorSums":
        """Return the sums over an empty set of keys."""

        def full(columns: int, value: float = 0.0) -> Tensor:
            return torch.full((queries, columns), value, dtype=torch.float64, device=device)

        return cls(
            log_max=full(1, -math.inf)[:, 0],
            moments=full(outputs.rows(t_length)),
            patches=full(outputs.patch_rows(p_length)),
            w2=full(1 * outputs.ess),
            error_variance=full((1 + 2 * t_length) * outputs.error),
            bounds=full((1 + 2 * t_length) * outputs.bounds),
            top_log_w=full(outputs.top, -math.inf),
            top_key=torch.full((queries, outputs.top), -1, device=device),
            keys_evaluated=torch.zeros(queries, dtype=torch.int64, device=device),
        )

    @classmethod
    def join(cls, parts: Sequence["PosteriorSums"]) -> "PosteriorSums":
        """Return the sums for several blocks of queries, concatenated."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def split(self, lengths: Sequence[int]) -> list["PosteriorSums"]:
        """Return the sums of blocks of queries of these lengths, from those of all; the inverse of `join`."""
        columns = (getattr(self, field.name).split(list(lengths)) for field in fields(self))
        return [PosteriorSums(*block) for block in zip(*columns, strict=True)]

    @classmethod
    def gather(cls, parts: Sequence[tuple[Tensor, "PosteriorSums"]]) -> "PosteriorSums":
        """Return the sums for all queries, in order, from those for subsets with the given numbers."""
        if len(parts) == 1:
            return parts[0][1]
        rows = torch.cat([rows for rows, _ in parts])
        return cls.join([sums for _, sums in parts]).take(rows.argsort())

    def to(self, device: torch.device) -> "PosteriorSums":
        """Return the sums on a device."""
        return PosteriorSums(*(getattr(self, field.name).to(device) for field in fields(self)))

    def take(self, rows: Tensor) -> "PosteriorSums":
        """Return the sums for the queries with the given numbers."""
        return PosteriorSums(*(getattr(self, field.name)[rows] for field in fields(self)))

    def put(self, rows: Tensor, other: "PosteriorSums") -> "PosteriorSums":
        """Return the sums with those for the queries with the given numbers replaced by others."""
        return PosteriorSums(
            *(
                getattr(self, field.name).index_copy(0, rows, getattr(other, field.name))
                for field in fields(self)
            )
        )

    def shift(self, constant: Tensor | float) -> "PosteriorSums":
        """Return the sums after adding a constant, a number or (Q,), to every log w."""
        constant = torch.as_tensor(constant, dtype=torch.float64, device=self.log_max.device)
        return replace(
            self,
            log_max=self.log_max + constant,
            top_log_w=self.top_log_w + constant.reshape(-1, 1),
        )

    def with_exact_errors(
        self, t_length: int, outputs: Outputs, reference: Tensor | None = None
    ) -> "PosteriorSums":
        """Return the sums with error variance and bounds for keys that were all summed one by one.

        The error variance is 0, and the bounds relative to the reference mean h, (Q, T), are the sums
        themselves.
        """
        w, wt = self.moments[:, :1], self.moments[:, 1 : 1 + t_length]
        error_variance, bounds = self.error_variance, self.bounds
        if outputs.error:
            error_variance = w.new_zeros(len(w), 1 + 2 * t_length)
        if outputs.bounds and reference is not None:
            deviation = wt - reference * w
            bounds = torch.cat([w, deviation, deviation], dim=1)
        return replace(self, error_variance=error_variance, bounds=bounds)

    def merge(self, other: "PosteriorSums") -> "PosteriorSums":
        """Return the sums over the union of two disjoint sets of keys, with the same outputs."""
        log_max = torch.maximum(self.log_max, other.log_max)
        # If neither has keys, the maximum is −∞, and −∞ − (−∞) is NaN.
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
            error_variance=a.square() * self.error_variance + b.square() * other.error_variance,
            bounds=a * self.bounds + b * other.bounds,
            top_log_w=top_log_w,
            top_key=top_key,
            keys_evaluated=self.keys_evaluated + other.keys_evaluated,
        )

    @property
    def log_z(self) -> Tensor:
        """Logarithm of Σ w, (Q,)."""
        return self.log_max + self.moments[:, 0].log()

    def posterior(self, t_length: int) -> "Posterior":
        """Return the posterior of each query, for targets of length T."""
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
            log_density=self.log_z,
            top_weight=torch.exp(self.top_log_w - self.log_max[:, None]) / w,
            top_key=self.top_key,
            source=self.top_key[:, :0],
        )

    def _error(self, mean: Tensor, w: Tensor) -> Tensor:
        """Return √(Σ a² (t − mean)²) / Σ w: errors of groups are independent, so their variances add up."""
        if not self.error_variance.shape[1]:
            return self.error_variance
        a2, a2t, a2t2 = self.error_variance.tensor_split([1, 1 + mean.shape[1]], dim=1)
        return (a2t2 - 2 * mean * a2t + mean.square() * a2).clamp_(min=0.0).sqrt_() / w

    def _error_bound(self, t_length: int) -> Tensor:
        """Return an upper bound of |Σ w (t − h) / Σ w| = |mean − h|."""
        if not self.bounds.shape[1]:
            return self.bounds
        least_w, low, high = self.bounds.tensor_split([1, 1 + t_length], dim=1)
        # Merged infinite bounds may be NaN.
        return (torch.maximum(low.abs(), high.abs()) / least_w).nan_to_num(nan=math.inf, posinf=math.inf)


def _mean_and_variance(wt: Tensor, wt2: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean Σ w t / Σ w and, if Σ w t² is given, the variance Σ w t² / Σ w − mean²."""
    mean = wt / w
    return mean, (wt2 / w - mean[:, : wt2.shape[1]].square()).clamp_(min=0.0)


@dataclass(frozen=True, slots=True)
class Posterior:
    """The posterior of the targets given each query, float64. Outputs not requested have no columns."""

    mean: Tensor
    """Σ w t / Σ w, (Q, T)."""
    variance: Tensor
    """Σ w t² / Σ w − mean², (Q, T or 0)."""
    patch: Tensor
    """Mean of the whole patch, Σ w v / Σ w, (Q, P or 0)."""
    patch_variance: Tensor
    """Variance of each coordinate of the patch, (Q, P or 0)."""
    ess: Tensor
    """Effective sample size (Σ w)² / Σ w², (Q, 1 or 0)."""
    error: Tensor
    """Standard error of the mean relative to the sum over all keys, up to a factor that calibration measures,
    (Q, T or 0)."""
    error_bound: Tensor
    """Upper bound of |mean − h| for the reference mean h, (Q, T or 0)."""
    log_density: Tensor
    """log Σ w, (Q,)."""
    top_weight: Tensor
    """Shares of the heaviest keys in Σ w, in descending order, (Q, R)."""
    top_key: Tensor
    """Numbers of the heaviest keys, int64, (Q, R)."""
    source: Tensor
    """Number of the training image of the heaviest key, int64, (Q, 1); no columns until it is looked up."""
