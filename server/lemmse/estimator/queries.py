"""Query patches u with the precision λ of their noise, and the scores log w of a tile of keys.

    log w = −½ Σ_i λ_i (u_i − v_i)²,     λ_i = 1/s_i², and 0 where nothing was observed

A tile is centred on the mean c of its keys, so that all products are of small numbers:

    log w = Σ λ_i (u − c)_i (v − c)_i − ½ Σ λ_i (v − c)_i² − ½ Σ λ_i (u − c)_i².

With one λ for all coordinates and queries, this is one matrix product with v − c, to which −½‖v − c‖² is
appended as a column; with separate λ, it is one matrix product with v − c and (v − c)². Scores are in base 2,
since exp2 is the exponential that CPUs vectorise; the factor log2 e is part of λ and costs nothing.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lemmse.estimator.keys import Tile

__all__ = ["LOG2_E", "Queries", "Scorer"]

LOG2_E = math.log2(math.e)


class Scorer(Protocol):
    """A callable that computes the scores of tiles of keys for a fixed set of queries."""

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Return two terms whose sum is log2 w: (Q, m), valid until the next call, and (Q,), float64."""
        ...


@dataclass(frozen=True, slots=True)
class Queries:
    """Q query patches in the coordinates of the keys of one stratum."""

    u: Tensor
    """The patches, float32, (Q, P); arbitrary where nothing was observed."""
    precision: Tensor
    """Precision λ = 1/s² of the noise, float32: one number, (), or one for each coordinate, (Q, P)."""
    stratum: int = 0
    """Number of the stratum whose keys count."""

    @classmethod
    def white(cls, u: Tensor, sigma: float, stratum: int = 0) -> "Queries":
        """Return queries u, float32, (Q, P), with white noise of standard deviation sigma."""
        return cls(u, torch.tensor(1 / sigma**2, device=u.device), stratum)

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

    def scorer(self, largest_tile: int) -> Scorer:
        """Return a scorer of these queries for tiles of at most `largest_tile` keys."""
        return (_WhiteScorer if self.is_white else _WeightedScorer)(self, largest_tile)


class _WhiteScorer:
    def __init__(self, queries: Queries, largest_tile: int) -> None:
        self._scale = LOG2_E * float(queries.precision)
        self._scaled = queries.u * self._scale  # (Q, P)
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
    def __init__(self, queries: Queries, largest_tile: int) -> None:
        self._u = queries.u
        self._lambda = LOG2_E * queries.precision  # (Q, P)
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
