"""Posterior sums over strata: which keys count for which query, and with which constants.

    log w_km(u) = −½ ‖Q_m⁺ (u − v_km)‖² / σ² − ½ log pdet(σ² Q_m Q_mᵀ) − ½ r log 2π,     r = rank Q_m

Whitened with the stratum's own Q_m, the first term is that of white noise. Where B has zeros, of the keys
whose subspace holds u only those of least rank count (a density on a smaller subspace outweighs any on a
larger one): the keys of the query's own pattern.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from lemmse.estimator.method import Rows
from lemmse.estimator.queries import Queries
from lemmse.estimator.sums import PosteriorSums
from lemmse.index.patches.strata import Strata

__all__ = ["sum_over_strata"]


def sum_over_strata(
    strata: Strata,
    u: NDArray[np.floating],
    stratum_of: NDArray[np.int64],
    sigma: float,
    sums_in: Callable[[Queries, int, Rows, float], PosteriorSums],
    device: torch.device,
) -> PosteriorSums:
    """Sum over all keys that count for each query, with their normalising constants.

    Parameters
    ----------
    strata : Strata
        The strata.
    u : float, (Q, P)
        Query patches of B y, not whitened.
    stratum_of : int, (Q,)
        Stratum of each query's own pattern; looked at where strata are exclusive.
    sigma : float
        Noise standard deviation, > 0.
    sums_in : callable
        Sums over one stratum, without normalising constants, for white queries, the rows of u; the logarithm
        of these constants comes last.
    device : torch.device
        Where the keys are.
    """

    def part(rows: Rows, stratum: int) -> PosteriorSums:
        white = torch.from_numpy(strata.whiten(u[rows], stratum)).to(device)
        rank, log_pdet = int(strata.rank[stratum]), float(strata.log_pdet[stratum])
        log_norm = -0.5 * (rank * math.log(2 * math.pi * sigma**2) + log_pdet)
        return sums_in(Queries.white(white, sigma), stratum, rows, log_norm).shift(log_norm)

    if not strata.exclusive:
        total = part(slice(None), 0)
        for stratum in range(1, len(strata)):
            total = total.merge(part(slice(None), stratum))
        return total
    order = np.argsort(stratum_of, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(stratum_of[order])) + 1)
    joined = PosteriorSums.join([part(rows, int(stratum_of[rows[0]])) for rows in groups])
    return joined.take(torch.from_numpy(np.argsort(order)).to(device))
