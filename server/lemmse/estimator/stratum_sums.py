"""Posterior sums over strata: which keys count for which query, with their normalizing constants.

    log w_km(u) = −½ ‖Q_m⁺ (u − v_km)‖² / σ² − ½ log pdet(σ² Q_m Q_mᵀ) − ½ r log 2π,     r = rank Q_m

Whitened with the stratum's own Q_m, the first term is that of white noise. Where B has zeros, of the keys
whose subspace holds u only those of least rank count (a density on a smaller subspace outweighs any on a
larger one): the keys of the query's own pattern.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.queries import Queries
from lemmse.estimator.sum_spec import Rows, SumSpec
from lemmse.estimator.sums import PosteriorSums
from lemmse.index.patches.strata import Strata

__all__ = ["ColouredQueries", "sum_over_strata"]


@dataclass(frozen=True, slots=True, eq=False)
class ColouredQueries:
    """Q query patches of z = B y, whose noise B has coloured; each stratum whitens them its own way."""

    u: NDArray[np.float64]
    """The patches, (Q, P)."""
    stratum: NDArray[np.int64]
    """Stratum of each query's own pattern, (Q,); used where strata are exclusive."""
    precision: float
    """λ = 1/σ² of the noise of y, > 0."""

    def __len__(self) -> int:
        """Return the number of queries, Q."""
        return len(self.u)

    def rows(self, rows: Tensor) -> "ColouredQueries":
        """Return some of the queries, given by number."""
        some = rows.numpy()
        return ColouredQueries(self.u[some], self.stratum[some], self.precision)


def sum_over_strata(
    strata: Strata,
    queries: ColouredQueries,
    spec: SumSpec,
    sums: Callable[[Queries, SumSpec], PosteriorSums],
    device: torch.device,
) -> PosteriorSums:
    """Return the sums over all keys that count for each query, with normalizing constants.

    The weights are densities of the patches u, not yet divided by the number of keys that count.

    Parameters
    ----------
    strata : Strata
        The strata of the index.
    queries : ColouredQueries
        The queries, (Q, P).
    spec : SumSpec
        How to sum.
    sums : callable
        Returns the sums over one stratum, without normalizing constants, for white queries.
    device : torch.device
        Where the keys are.
    """

    def stratum_sums(rows: Rows, stratum: int) -> PosteriorSums:
        white = torch.from_numpy(strata.whiten(queries.u[rows], stratum)).to(device)
        precision = torch.tensor(queries.precision, dtype=torch.float32, device=device)
        rank, log_pdet = int(strata.rank[stratum]), float(strata.log_pdet[stratum])
        log_norm = 0.5 * (rank * math.log(queries.precision / (2 * math.pi)) - log_pdet)
        some = spec.rows(rows)
        some = some.unnormalized(log_norm) if rank else some.exact()
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
