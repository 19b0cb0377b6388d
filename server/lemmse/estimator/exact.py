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
    parts = [
        _block_sums(keys, block, sigma, want, cancelled) for block in torch.split(u, query_block(u.device))
    ]
    return PosteriorSums.join(parts)


def _block_sums(keys: Keys, u: Tensor, sigma: float, want: Want, cancelled: Cancel) -> PosteriorSums:
    scale = _LOG2_E / sigma**2
    scaled = u * scale  # (Q, P)
    queries = torch.full((len(u), keys.p_length + 1), scale, device=u.device)
    buffer = torch.empty(len(u) * keys.tile, device=u.device)
    sums = PosteriorSums.empty(len(u), keys.t_length, want, u.device)
    for tile in keys.tiles():
        stop_if(cancelled)
        torch.sub(scaled, tile.centre * scale, out=queries[:, :-1])
        scores = buffer[: len(u) * len(tile.features)].view(len(u), -1)
        torch.mm(queries, tile.features.T, out=scores)  # log2 w but for the term of u alone
        of_query = torch.linalg.vector_norm(queries[:, :-1], dim=1).double().square() / (2 * scale)  # (Q,)
        sums = sums.merge(_tile_sums(tile, scores, of_query, want, want.rows(keys.t_length)))
    return sums


def _tile_sums(tile: Tile, scores: Tensor, of_query: Tensor, want: Want, rows: int) -> PosteriorSums:
    """Sums over one tile, from its scores (Q, m), which are used up, and their terms of the query alone."""
    score_max = scores.amax(dim=1, keepdim=True)
    top_score, top_key = scores[:, :0], scores[:, :0].long()
    if want.top:
        top_score, top_key = scores.topk(min(want.top, scores.shape[1]), dim=1)
    w = scores.sub_(score_max).clamp_(min=_FLOOR).exp2_()
    moments = w @ tile.moments[:rows].T  # (Q, rows)
    return PosteriorSums(
        log_max=(score_max[:, 0] - of_query) / _LOG2_E,
        moments=moments.double(),
        w2=(w.square_() @ tile.moments[:1].T if want.ess else moments[:, :0]).double(),
        top_log_w=(top_score - of_query[:, None]) / _LOG2_E,
        top_key=top_key + tile.first,
        touched=torch.tensor(len(tile.features), device=scores.device),
    )
