"""Query patches u with the precision λ of their noise, and the scores log w of a tile of keys.

    log w = −½ Σ_i λ_i (u_i − v_i)²,     λ_i = 1/s_i², and 0 where nothing was observed

A tile is centred on the mean c of its keys, so that all products are of small numbers:

    log w = Σ λ_i (u − c)_i (v − c)_i − ½ Σ λ_i (v − c)_i² − ½ Σ λ_i (u − c)_i².

With one λ for all coordinates and queries, this is one matrix product with v − c, to which −½‖v − c‖² is
appended as a column; with separate λ, it is one matrix product with v − c and (v − c)². Scores are in base 2,
since exp2 is the exponential that CPUs vectorise; the factor log2 e is part of λ and costs nothing.

In float32, log w is off by about eps times its magnitude, Σ λ_i ((u_i − c_i)² + variance of the keys). Where
that is too much, at very low noise or far from all keys, queries are *sharp* and scored in float64. All tiles
then have one centre c, and the last term, which is the same for all keys and may be many orders of magnitude
larger than all else, is added to log Σ w at the end.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lemmse.estimator.keys import Scale, Tile

__all__ = ["LARGEST_MAGNITUDE", "LOG2_E", "Queries", "Scorer"]

LOG2_E = math.log2(math.e)
LARGEST_MAGNITUDE = 2.0**18
"""Largest magnitude of log w that float32 resolves: to 1/32, as eps = 2^−23."""


class Scorer(Protocol):
    """A callable that computes the scores of tiles of keys for a fixed set of queries."""

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Return two terms whose sum is log2 w: (Q, m), valid until the next call, and (Q,), float64."""
        ...

    @property
    def common(self) -> Tensor | float:
        """What must be added to log w, for all keys alike, (Q,) or a number."""
        ...


@dataclass(frozen=True, slots=True)
class Queries:
    """Q query patches in the coordinates of the keys of one stratum."""

    u: Tensor
    """The patches, float32 or float64, (Q, P); arbitrary where nothing was observed."""
    precision: Tensor
    """Precision λ = 1/s² of the noise, one number, (), or one for each coordinate, (Q, P)."""
    stratum: int = 0
    """Number of the stratum whose keys count."""

    @classmethod
    def white(cls, u: Tensor, sigma: float, stratum: int = 0) -> "Queries":
        """Return queries u, (Q, P), with white noise of standard deviation sigma."""
        return cls(u, torch.tensor(1 / sigma**2, device=u.device), stratum)

    def to(self, device: torch.device) -> "Queries":
        """Return the queries on a device."""
        return Queries(self.u.to(device), self.precision.to(device), self.stratum)

    def __len__(self) -> int:
        """Return the number of queries, Q."""
        return len(self.u)

    @property
    def is_white(self) -> bool:
        """Whether one precision applies to all coordinates."""
        return self.precision.ndim == 0

    def rows(self, rows: slice | Tensor) -> "Queries":
        """Return the queries with the given numbers."""
        return Queries(self.u[rows], self.precision if self.is_white else self.precision[rows], self.stratum)

    def magnitude(self, scale: Scale) -> Tensor:
        """Return the magnitude of log w among keys of this scale, float64, (Q,)."""
        square = self.deviation(scale.centre).square_().add_(scale.variance)
        return (square * self.precision.double()).sum(dim=1)

    def sharp(self, scale: Scale) -> Tensor:
        """Return a mask of the queries whose log w float32 does not resolve, (Q,)."""
        return self.magnitude(scale) > LARGEST_MAGNITUDE

    def deviation(self, centre: Tensor) -> Tensor:
        """Return u − c, and 0 where nothing was observed, float64, (Q, P)."""
        return (self.u.double() - centre).where(self.precision > 0, 0.0)

    def scorer(self, largest_tile: int) -> Scorer:
        """Return a scorer of these queries for tiles of at most `largest_tile` keys, in float32."""
        return (_WhiteScorer if self.is_white else _WeightedScorer)(self, largest_tile)

    def sharp_scorer(self, centre: Tensor) -> Scorer:
        """Return a scorer of these queries for tiles with the given centre, in float64."""
        return _SharpScorer(self, centre)


class _WhiteScorer:
    common = 0.0

    def __init__(self, queries: Queries, largest_tile: int) -> None:
        self._scale = LOG2_E * float(queries.precision)
        self._scaled = queries.u.float() * self._scale  # (Q, P)
        q, p = queries.u.shape
        self._features = torch.full((q, p + 1), self._scale, device=queries.u.device)
        self._scores = torch.empty(q * largest_tile, device=queries.u.device)

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        centred = self._features[:, :-1]
        torch.sub(self._scaled, tile.centre * self._scale, out=centred)
        scores = self._scores[: len(centred) * tile.features.shape[1]].view(len(centred), -1)
        torch.mm(self._features, tile.features, out=scores)
        return scores, torch.linalg.vector_norm(centred, dim=1).double().square() / (-2 * self._scale)


class _WeightedScorer:
    common = 0.0

    def __init__(self, queries: Queries, largest_tile: int) -> None:
        self._u = queries.u.float()
        self._lambda = LOG2_E * queries.precision.float()  # (Q, P)
        q, p = queries.u.shape
        self._features = torch.empty(q, 2 * p, device=queries.u.device)
        self._features[:, p:] = -0.5 * self._lambda
        self._keys = torch.empty(2 * p * largest_tile, device=queries.u.device)
        self._scores = torch.empty(q * largest_tile, device=queries.u.device)

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        m, p = tile.features.shape[1], self._u.shape[1]
        centred = self._u - tile.centre  # (Q, P)
        torch.mul(self._lambda, centred, out=self._features[:, :p])
        keys = self._keys[: 2 * p * m].view(2 * p, m)
        keys[:p] = tile.features[:-1]
        torch.square(keys[:p], out=keys[p:])
        scores = self._scores[: len(centred) * m].view(len(centred), -1)
        torch.mm(self._features, keys, out=scores)
        return scores, (self._features[:, :p] * centred).sum(dim=1, dtype=torch.float64) / -2


class _SharpScorer:
    def __init__(self, queries: Queries, centre: Tensor) -> None:
        precision, deviation = queries.precision.double(), queries.deviation(centre)
        scaled = precision * deviation  # (Q, P)
        self.common = -0.5 * (scaled * deviation).sum(dim=1)
        self._scaled = LOG2_E * scaled
        self._lambda = LOG2_E * precision
        self._zero = torch.zeros_like(self.common)

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        centred, minus_half_square = tile.features[:-1], tile.features[-1]
        scores = self._scaled @ centred
        if self._lambda.ndim == 0:
            return scores.add_(self._lambda * minus_half_square), self._zero
        return scores.sub_(self._lambda @ centred.square(), alpha=0.5), self._zero
