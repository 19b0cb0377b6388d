"""The rounding of log w in float32, as far as certified errors must allow for it."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from lemmse.estimator.keys import Scale
from lemmse.estimator.queries import Queries
from lemmse.estimator.sums import PosteriorSums

__all__ = ["rounding", "widened"]

_EPS = float(np.finfo(np.float32).eps)


def rounding(queries: Queries, scale: Scale, ratio: float) -> NDArray[np.float32]:
    """Return an upper bound of the error of log w of keys that count, (Q,); 0 if it is computed in float64.

    A sum of P squares of rounded numbers, in two parts, is off by (P / 2 + 4) eps / 2 of itself at most. Here
    it is at most the magnitude of log w, for keys that count.
    """
    if ratio > 1:
        return np.zeros(len(queries), np.float32)
    share = (queries.u.shape[1] / 4 + 2) * _EPS
    error: NDArray[np.float32] = (share * queries.magnitude(scale)).float().numpy()
    return error


def widened(keys: PosteriorSums, reference: torch.Tensor, error: NDArray[np.float32]) -> PosteriorSums:
    """Return sums over keys whose bounds hold if each log w is off by an error, (Q,).

    Σ w |t − h| ≤ √(Σ w · Σ w (t − h)²), where h is the reference mean, (Q, T).
    """
    t_length = reference.shape[1]
    w, wt, wt2 = keys.moments[:, :1], keys.moments[:, 1 : 1 + t_length], keys.moments[:, 1 + t_length :]
    absolute = (w * (wt2 - 2 * reference * wt + reference.square() * w)).clamp_(min=0.0).sqrt_()
    log_factor = torch.from_numpy(error).double()[:, None]
    more = log_factor.expm1() * absolute
    least, low, high = keys.bounds.tensor_split([1, 1 + t_length], dim=1)
    return replace(keys, bounds=torch.cat([least * (-log_factor).exp(), low - more, high + more], dim=1))
