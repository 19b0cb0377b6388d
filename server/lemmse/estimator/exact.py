"""The exact posterior: the sum over all keys of a stratum, streamed tile by tile.

One product gives the scores log w of a tile of m keys for Q queries (see `queries`), and one more, of the
weights with the target moments, all sums; the means of whole patches take a product with the keys.
"""

from dataclasses import replace

import torch
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, never, query_block, stop_if
from lemmse.estimator.keys import Keys, Tile
from lemmse.estimator.queries import LOG2_E, Queries
from lemmse.estimator.sums import MEAN_ONLY, PosteriorSums, Want

__all__ = ["exact_sums"]

_FLOOR = -100.0
"""Scores are clamped to this below their tile's largest: 2^−100 is nothing beside 1, and no denormal, which
would be several times slower in every product."""


def exact_sums(
    keys: Keys,
    queries: Queries,
    *,
    stratum: int = 0,
    want: Want = MEAN_ONLY,
    cancelled: Cancel = never,
) -> PosteriorSums:
    """Sum the weights of all keys of a stratum for each query, without normalising constants.

    Parameters
    ----------
    keys : Keys
        The keys, white.
    queries : Queries
        White query patches, (Q, P), on the device of the keys.
    stratum : int
        Number of the stratum.
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
    arXiv 2601.10334, the LE-MMSE estimator.
    """
    step = query_block(queries.u.device)
    return PosteriorSums.join(
        [
            _block_sums(keys, queries.rows(slice(start, start + step)), stratum, want, cancelled)
            for start in range(0, len(queries), step)
        ]
    )


def _block_sums(keys: Keys, queries: Queries, stratum: int, want: Want, cancelled: Cancel) -> PosteriorSums:
    score = queries.scorer(keys.longest_tile(stratum))
    of_keys = replace(want, error=False, bounds=False)  # the sums are certain
    sums = PosteriorSums.empty(len(queries), keys.t_length, keys.p_length, of_keys, queries.u.device)
    for tile in keys.tiles(stratum):
        stop_if(cancelled)
        sums = sums.merge(_tile_sums(tile, *score(tile), want, want.rows(keys.t_length)))
    return sums


def _tile_sums(tile: Tile, scores: Tensor, of_query: Tensor, want: Want, rows: int) -> PosteriorSums:
    """Sums over one tile, from its scores (Q, m), which are used up, and their terms of the query alone."""
    score_max = scores.amax(dim=1, keepdim=True)
    top_score, top_key = scores[:, :0], scores[:, :0].long()
    if want.top:
        top_score, top_key = scores.topk(min(want.top, scores.shape[1]), dim=1)
    w = scores.sub_(score_max).clamp_(min=_FLOOR).exp2_()
    moments = w @ tile.moments[:rows].T  # (Q, rows)
    patches = _patch_sums(tile, w, want) if want.patch else moments[:, :0].double()
    return PosteriorSums(
        log_max=(score_max[:, 0] + of_query) / LOG2_E,
        moments=moments.double(),
        patches=patches,
        w2=(w.square_() @ tile.moments[:1].T if want.ess else moments[:, :0]).double(),
        doubt=moments[:, :0].double(),
        bounds=moments[:, :0].double(),
        top_log_w=(top_score + of_query[:, None]) / LOG2_E,
        top_key=top_key + tile.first,
        touched=torch.tensor(scores.shape[1], device=scores.device),
    )


def _patch_sums(tile: Tile, w: Tensor, want: Want) -> Tensor:
    """Σ w v and, if the variance is wanted, Σ w v² over one tile, (Q, P or 2P)."""
    centred, centre = tile.features[:-1], tile.centre.double()
    of_copies = w * tile.moments[0]
    total = of_copies.sum(dim=1, keepdim=True).double()
    first = (of_copies @ centred.T).double()
    sums = [first + total * centre]
    if want.variance:
        second = (of_copies @ centred.square().T).double()
        sums.append(second + 2 * centre * first + total * centre.square())
    return torch.cat(sums, dim=1)
