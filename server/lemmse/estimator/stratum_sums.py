"""Posterior sums over strata: the keys that count for each query, with their normalizing constants.

    log w_km(u) = −½ ‖Q_m⁺ (u − v_km)‖² / σ² − ½ log pdet(σ² Q_m Q_mᵀ) − ½ r log 2π,     r = rank Q_m

After whitening with the Q_m of the stratum, the first term is that of white noise. If B has zeros, several
subspaces may contain u; only the keys with the smallest subspace count, since a density on it outweighs any
density on a larger one: these are the keys of the query's own stratum.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.queries import Queries
from lemmse.estimator.sum_spec import Rows, SumSpec
from lemmse.estimator.sums import PosteriorSums
from lemmse.estimator.whitening import Whitening
from lemmse.index.patches.strata import Strata

__all__ = ["ColouredQueries", "log_normalizer", "sum_over_strata"]


@dataclass(frozen=True, slots=True, eq=False)
class ColouredQueries:
    """Q query patches of z = B y, with noise coloured by B; each stratum has its own whitening."""

    u: Tensor
    """The patches, float64, (Q, P)."""
    stratum: NDArray[np.int64]
    """Stratum of each query, (Q,); used if strata are exclusive."""
    precision: float
    """Precision λ = 1/σ² of the noise of y, > 0."""

    @classmethod
    def join(cls, parts: Sequence["ColouredQueries"]) -> "ColouredQueries":
        """Return several blocks of queries of one precision, concatenated."""
        return cls(
            torch.cat([part.u for part in parts]),
            np.concatenate([part.stratum for part in parts]),
            parts[0].precision,
        )

    def to(self, device: torch.device) -> "ColouredQueries":
        """Return the queries on a device."""
        return ColouredQueries(self.u.to(device), self.stratum, self.precision)

    def __len__(self) -> int:
        """Return the number of queries, Q."""
        return len(self.u)

    def rows(self, rows: Tensor) -> "ColouredQueries":
        """Return the queries with the given numbers."""
        return ColouredQueries(self.u[rows], self.stratum[rows.numpy()], self.precision)


def log_normalizer(strata: Strata, stratum: int, precision: float) -> float:
    """Return the log of the normalizing constant of the density of a key of a stratum."""
    rank, log_pdet = int(strata.rank[stratum]), float(strata.log_pdet[stratum])
    return 0.5 * (rank * math.log(precision / (2 * math.pi)) - log_pdet)


def sum_over_strata(
    strata: Strata,
    whitening: Whitening,
    queries: ColouredQueries,
    spec: SumSpec,
    sums: Callable[[Queries, SumSpec], PosteriorSums],
) -> PosteriorSums:
    """Return the posterior sums over all keys that count for each query, with normalizing constants.

    The weights are densities of the patches u, not yet divided by the number of keys that count.

    Parameters
    ----------
    strata : Strata
        The strata of the index.
    whitening : Whitening
        Their whitening, on the device of the queries.
    queries : ColouredQueries
        The queries, (Q, P).
    spec : SumSpec
        The specification of the sums.
    sums : callable
        Returns the sums over one stratum for whitened queries, without normalizing constants.
    """
    device = queries.u.device

    def stratum_sums(rows: Rows, stratum: int) -> PosteriorSums:
        some_u = queries.u[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(device)]
        white = whitening.whiten(some_u, stratum)
        precision = torch.tensor(queries.precision, dtype=torch.float64, device=device)
        log_norm = log_normalizer(strata, stratum, queries.precision)
        some = spec.rows(rows)
        some = some.unnormalized(log_norm) if strata.rank[stratum] else some.exact()
        return sums(Queries(white, precision, stratum), some).shift(log_norm)

    if not strata.exclusive:
        total = stratum_sums(slice(None), 0)
        for stratum in range(1, len(strata)):
            total = total.merge(stratum_sums(slice(None), stratum))
        return total
    order = np.argsort(queries.stratum, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(queries.stratum[order])) + 1)
    joined = PosteriorSums.join([stratum_sums(rows, int(queries.stratum[rows[0]])) for rows in groups])
    return joined.take(torch.from_numpy(np.argsort(order)).to(device))
