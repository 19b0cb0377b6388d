"""Posterior covariances of patches with one direction each, and their exact merge.

The posterior mean of a patch changes with the noisy patch u as dE[v|u]/du = Cov(v, v|u) Λ, for any prior and
Gaussian noise of precision Λ. The derivative of a·E[v|u] is therefore Λ Cov(v, a·v|u): for the keys,

    Cov(v, s) = Σ w (s − s̄) (v − v̄) / Σ w,     s = a·v,

where s̄ and v̄ are the means. Each tile of keys is centred on its own means, so that nothing cancels, and tiles
merge by the formula of Chan, Golub and LeVeque (1983): with the weights W_1 and W_2 of two sets of keys,

    Σ w (s − s̄) (v − v̄) = the sum of both + W_1 W_2 / (W_1 + W_2) (s̄_1 − s̄_2) (v̄_1 − v̄_2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, raise_if_cancelled
from lemmse.estimator.exact import blocks_to_score, scorer, weights
from lemmse.estimator.keys import Keys, Tile
from lemmse.estimator.queries import LOG2_E, Queries

__all__ = ["Covariances", "key_covariances"]


@dataclass(frozen=True, slots=True)
class Covariances:
    """Sums over a set of keys, or of Gaussians, for Q queries, float64, relative to e^log_max."""

    log_max: Tensor
    """Largest log w, (Q,); −∞ if there is no key."""
    w: Tensor
    """Σ w, (Q, 1)."""
    s: Tensor
    """s̄ = Σ w s / Σ w, (Q, 1)."""
    v: Tensor
    """v̄ = Σ w v / Σ w, (Q, P)."""
    product: Tensor
    """Σ w (s − s̄) (v − v̄), (Q, P)."""

    @property
    def covariance(self) -> Tensor:
        """Cov(v, s), (Q, P)."""
        return self.product / self.w

    @classmethod
    def empty(cls, directions: Tensor) -> "Covariances":
        """Return the sums over an empty set of keys, for directions (Q, P)."""
        zero, none = torch.zeros_like(directions), directions.new_zeros(len(directions), 1)
        return cls(torch.full_like(none[:, 0], -math.inf), none, none, zero, zero)

    @classmethod
    def gather(cls, parts: Sequence[tuple[Tensor, "Covariances"]]) -> "Covariances":
        """Return the sums for all queries, in order, from those for subsets with the given numbers."""
        order = torch.cat([rows for rows, _ in parts]).argsort()
        columns = ([getattr(sums, field.name) for _, sums in parts] for field in fields(cls))
        return cls(*(torch.cat(column)[order] for column in columns))

    def to(self, device: torch.device) -> "Covariances":
        """Return the sums on a device."""
        return Covariances(*(getattr(self, field.name).to(device) for field in fields(self)))

    def shift(self, constant: Tensor | float) -> "Covariances":
        """Return the sums after adding a constant, a number or (Q,), to every log w."""
        return replace(self, log_max=self.log_max + constant)

    def merge(self, other: "Covariances") -> "Covariances":
        """Return the sums over the union of two disjoint sets of keys, of which `other` is not empty."""
        log_max = torch.maximum(self.log_max, other.log_max)
        a = torch.exp(self.log_max - log_max)[:, None]  # (Q, 1)
        b = torch.exp(other.log_max - log_max)[:, None]
        w = a * self.w + b * other.w
        share = b * other.w / w
        s, v = other.s - self.s, other.v - self.v
        between = a * self.w * share * s * v
        return Covariances(
            log_max=log_max,
            w=w,
            s=self.s + share * s,
            v=self.v + share * v,
            product=a * self.product + b * other.product + between,
        )


def key_covariances(keys: Keys, queries: Queries, directions: Tensor, cancelled: Cancel) -> Covariances:
    """Return the covariances over all keys of the stratum of the queries, without normalizing constants.

    Parameters
    ----------
    keys : Keys
        The whitened keys.
    queries : Queries
        The whitened query patches, (Q, P), on the device of the keys.
    directions : Tensor
        The direction a of each query, float64, (Q, P).
    cancelled : callable
        Polled for every tile; when it returns True, Cancelled is raised.
    """
    parts = []
    for rows, centre in blocks_to_score(keys, queries):
        score = scorer(keys, queries.rows(rows), centre)
        part = Covariances.empty(directions[rows])
        for tile in keys.tiles(queries.stratum, centre):
            raise_if_cancelled(cancelled)
            part = part.merge(_tile_covariances(tile, *score(tile), directions[rows]))
        parts.append((rows, part.shift(score.common)))
    return Covariances.gather(parts)


def _tile_covariances(tile: Tile, scores: Tensor, query_terms: Tensor, a: Tensor) -> Covariances:
    """Return the covariances over one tile, for the directions a, (Q, P).

    log2 w is the sum of `scores`, (Q, m), which is overwritten, and `query_terms`, (Q,).
    """
    weight, score_max = weights(scores)
    w = weight * tile.moments[0]  # each key counts with its multiplicity
    centred = tile.features[:-1]  # (P, m)
    used = a.any(dim=0)  # the direction of a centre pixel is 0 elsewhere
    s = a[:, used].to(centred.dtype) @ centred[used]  # (Q, m)
    total = w.sum(dim=1, keepdim=True)
    s_mean = (w * s).sum(dim=1, keepdim=True) / total
    v_mean = (w @ centred.T).double() / total.double()
    deviation = w.mul_(s.sub_(s_mean))
    # The deviations add up to the rounding of the mean, which is not small if one key has all the weight.
    rest = deviation.sum(dim=1, keepdim=True).double()
    return Covariances(
        log_max=(score_max[:, 0] + query_terms) / LOG2_E,
        w=total.double(),
        s=s_mean.double() + a @ tile.centre.double()[:, None],
        v=v_mean + tile.centre.double(),
        product=(deviation @ centred.T).double() - rest * v_mean,
    )
