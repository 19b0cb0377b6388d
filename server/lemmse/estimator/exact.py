"""Mode exact: the sums over all keys of a stratum, tile by tile.

One matrix product gives the scores log w of a tile of m keys for Q queries (see `queries`), and another, of
the weights with the moments of the targets, gives all sums. The means of whole patches need a further product
with the keys. Sharp queries (see `queries`) are scored in float64.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lemmse.estimator.cancellation import query_block, raise_if_cancelled
from lemmse.estimator.keys import Keys, Tile
from lemmse.estimator.queries import LOG2_E, Queries, Scorer
from lemmse.estimator.sum_spec import EXACT, SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums

__all__ = ["exact_sums", "scored_blocks", "weights"]

_FLOOR = -100.0
"""Scores are clamped to this distance below the largest of their tile: 2^−100 is negligible relative to 1,
and not a denormal number, which would make every product several times slower."""


def exact_sums(keys: Keys, queries: Queries, spec: SumSpec = EXACT) -> PosteriorSums:
    """Return the posterior sums over all keys of the stratum of the queries, without normalizing constants.

    Parameters
    ----------
    keys : Keys
        The whitened keys.
    queries : Queries
        The whitened query patches, (Q, P), on the device of the keys.
    spec : SumSpec
        Its outputs are used, and its reference mean if these include bounds.

    Raises
    ------
    Cancelled
        `spec.cancelled()` was true; it is polled for every tile.

    References
    ----------
    arXiv 2601.10334, the LE-MMSE estimator.
    """
    outputs = replace(spec.outputs, error=False, bounds=False)  # these follow from the other sums
    parts = []
    for rows, score, centre in scored_blocks(keys, queries):
        part = PosteriorSums.empty(len(rows), keys.t_length, keys.p_length, outputs, rows.device)
        for tile in keys.tiles(queries.stratum, centre):
            raise_if_cancelled(spec.cancelled)
            part = part.merge(_tile_sums(tile, *score(tile), outputs, outputs.rows(keys.t_length)))
        parts.append((rows, part.shift(score.common)))
    sums = PosteriorSums.gather(parts)
    return sums.with_exact_errors(keys.t_length, spec.outputs, spec.reference)


def scored_blocks(keys: Keys, queries: Queries) -> Iterator[tuple[Tensor, Scorer, Tensor | None]]:
    """Yield the numbers of a block of queries, their scorer, and the centre of the tiles to score.

    The centre is that of all tiles for sharp queries, and None for others, whose tiles have their own.
    """
    scale, step = keys.scale(queries.stratum), query_block(queries.u.device)
    for block in torch.split(torch.arange(len(queries), device=queries.u.device), step):
        sharp = queries.rows(block).sharp(scale)
        for centre, rows in ((None, block[~sharp]), (scale.centre, block[sharp])):
            some = queries.rows(rows)
            if len(rows) and centre is None:
                yield rows, some.scorer(keys.longest_tile(queries.stratum)), None
            elif len(rows):
                yield rows, some.sharp_scorer(scale.centre), centre


def weights(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of a tile of keys, relative to the largest, and the largest score, (Q, m), (Q, 1).

    The scores, log2 w, are overwritten.
    """
    score_max = scores.amax(dim=1, keepdim=True)
    return scores.sub_(score_max).clamp_(min=_FLOOR).exp2_(), score_max


def _tile_sums(tile: Tile, scores: Tensor, query_terms: Tensor, outputs: Outputs, rows: int) -> PosteriorSums:
    """Return the sums over one tile.

    log2 w is the sum of `scores`, (Q, m), which is overwritten, and `query_terms`, (Q,).
    """
    top_score, top_key = scores[:, :0], scores[:, :0].long()
    if outputs.top:
        top_score, top_key = scores.topk(min(outputs.top, scores.shape[1]), dim=1)
    w, score_max = weights(scores)
    moments = w @ tile.moments[:rows].T  # (Q, rows)
    patches = _patch_sums(tile, w, outputs) if outputs.patch else moments[:, :0].double()
    return PosteriorSums(
        log_max=(score_max[:, 0] + query_terms) / LOG2_E,
        moments=moments.double(),
        patches=patches,
        w2=(w.square_() @ tile.moments[:1].T if outputs.ess else moments[:, :0]).double(),
        error_variance=moments[:, :0].double(),
        bounds=moments[:, :0].double(),
        top_log_w=(top_score + query_terms[:, None]) / LOG2_E,
        top_key=top_key + tile.first,
        keys_evaluated=torch.tensor(scores.shape[1], device=scores.device),
    )


def _patch_sums(tile: Tile, w: Tensor, outputs: Outputs) -> Tensor:
    """Return Σ w v and, with the variance, Σ w v² over one tile, (Q, P or 2P)."""
    centred, centre = tile.features[:-1], tile.centre.double()
    n_w = w * tile.moments[0]  # each key counts with its multiplicity
    total = n_w.sum(dim=1, keepdim=True).double()
    first = (n_w @ centred.T).double()
    sums = [first + total * centre]
    if outputs.variance:
        second = (n_w @ centred.square().T).double()
        sums.append(second + 2 * centre * first + total * centre.square())
    return torch.cat(sums, dim=1)
