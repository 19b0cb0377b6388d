"""The exact posterior: the sum over all keys, streamed tile by tile.

For a tile of m keys and Q queries one product gives all scores,

    log w = −‖u − v‖² / 2σ² = [ (u − c)·(v − c) − ½‖v − c‖² − ½‖u − c‖² ] / σ²,

and one more, of the weights with the target moments, all sums. Base 2 throughout: exp2 is the vectorised
exponential of the CPU, and log2 e / σ² goes into the queries at no cost.
"""

import math

import torch
from torch import Tensor

from lemmse.estimator.keys import Keys, Tile
from lemmse.estimator.sums import MEAN_ONLY, PosteriorSums, Want
from lemmse.estimator.work import Cancel, never, query_block, stop_if

__all__ = ["exact_sums"]

_FLOOR = -100.0
"""Scores are clamped to this below their tile's largest: 2^−100 is nothing beside 1, and no denormal, which
would be several times slower in every product."""
_LOG2_E = math.log2(math.e)


def exact_sums(
    keys: Keys, u: Tensor, sigma: float, want: Want = MEAN_ONLY, cancelled: Cancel = never
) -> PosteriorSums:
    """Sum the weights of all keys for each query.

    Parameters
    ----------
    keys : Keys
        The keys, whitened where the noise is not white.
    u : float32, (Q, P)
        Query patches, on the device of the keys.
    sigma : float
        Noise standard deviation, in intensity units, > 0.
    want : Want
        Which sums beside those of the mean.
    cancelled : callable
        Polled for every tile.

    Raises
    ------
    Cancelled
        `cancelled()` was true.

    References
    ----------
    arXiv 2601.10334, the LE-MMSE estimator; here for white noise (B = I).
    """
    parts = [_block_sums(keys, block, sigma, want, cancelled) for block in u.split(query_block(u.device))]
    return PosteriorSums.join(parts)


def _block_sums(keys: Keys, u: Tensor, sigma: float, want: Want, cancelled: Cancel) -> PosteriorSums:
    scale = _LOG2_E / sigma**2
    scaled = u * scale  # (Q, P)
    queries = torch.full((len(u), keys.p_length + 1), scale, device=u.device)
    sums = PosteriorSums.empty(len(u), keys.t_length, want, u.device)
    for tile in keys.tiles():
        stop_if(cancelled)
        torch.sub(scaled, tile.centre * scale, out=queries[:, :-1])
        sums = sums.merge(_tile_sums(tile, queries, scale, want))
    return sums


def _tile_sums(tile: Tile, queries: Tensor, scale: float, want: Want) -> PosteriorSums:
    """Sums over one tile, for queries scale·(u − c) with a last column of `scale`, (Q, P + 1)."""
    scores = queries @ tile.features.T  # (Q, m), log2 w but for the term of u alone
    of_query = queries[:, :-1].square().sum(dim=1).double() / (2 * scale)  # (Q,)
    top_score, top_key = scores.topk(min(want.top, scores.shape[1]), dim=1)
    score_max = scores.amax(dim=1, keepdim=True)
    w = scores.sub_(score_max).clamp_(min=_FLOOR).exp2_()
    t_length = len(tile.moments) // 2
    rows = 1 + 2 * t_length if want.variance else 1 + t_length
    total, wt, wt2 = (w @ tile.moments[:rows].T).double().tensor_split([1, 1 + t_length], dim=1)
    return PosteriorSums(
        log_max=(score_max[:, 0] - of_query) / _LOG2_E,
        w=total,
        wt=wt,
        wt2=wt2,
        w2=(w.square_() @ tile.moments[:1].T).double() if want.ess else total[:, :0],
        top_log_w=(top_score - of_query[:, None]) / _LOG2_E,
        top_key=top_key + tile.first,
        touched=torch.full((len(queries),), len(tile.features), device=queries.device),
    )
