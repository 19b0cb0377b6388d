"""Mode exact: the sums over all keys of a stratum, tile by tile.

One matrix product gives the scores log w of a tile of m keys for Q queries (see `queries`), and another, of
the weights with the moments of the targets, gives all sums. The means of whole patches need a further product
with the keys. Sharp queries (see `queries`) are scored in float64.

On a GPU, one kernel does all of this for most requests (see `fused`). It leaves to these products lists of
the heaviest keys, targets of more than 31 numbers, whole patches of more than 512, and queries that float16
numbers do not resolve.
"""

from dataclasses import replace

import torch
from torch import Tensor

from lemmse.estimator.cancellation import QUERIES_OF_THREAD, even_blocks, query_block, raise_if_cancelled
from lemmse.estimator.fused import Form, FusedKeys
from lemmse.estimator.keys import Keys, Tile
from lemmse.estimator.queries import LOG2_E, Queries
from lemmse.estimator.sum_spec import EXACT, SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums

__all__ = ["exact_sums"]

_FLOOR = -100.0
"""Scores are clamped to this distance below the largest of their tile: 2^−100 is negligible relative to 1,
and not a denormal number, which would make every product several times slower."""


_VECTOR = 32
"""Multiple of the length of the vectors in which numbers are computed."""


def exact_sums(
    keys: Keys, queries: Queries, spec: SumSpec = EXACT, fused: FusedKeys | None = None
) -> PosteriorSums:
    """Return the posterior sums over all keys of the stratum of the queries, without normalizing constants.

    Parameters
    ----------
    keys : Keys
        The whitened keys.
    queries : Queries
        The whitened query patches, (Q, P), on the device of the keys.
    spec : SumSpec
        Its outputs are used, and its reference mean if these include bounds.
    fused : FusedKeys, optional
        The keys for the fused kernel, where it runs.

    Raises
    ------
    Cancelled
        `spec.cancelled()` was true; it is polled for every tile.

    References
    ----------
    arXiv 2601.10334, the LE-MMSE estimator.
    """
    blocks = even_blocks(len(queries), query_block(queries.u.device) if fused is None else fused.query_block)
    sums = PosteriorSums.join([_block_sums(keys, queries.rows(rows), spec, fused) for rows in blocks])
    return sums.with_exact_errors(keys.t_length, spec.outputs, spec.reference)


def _block_sums(keys: Keys, queries: Queries, spec: SumSpec, fused: FusedKeys | None) -> PosteriorSums:
    scale = keys.scale(queries.stratum)
    left = torch.ones(len(queries), dtype=torch.bool, device=queries.u.device)
    parts = []
    if fused is not None and fused.computes(spec.outputs):
        forms = fused.forms(queries)
        for form in Form:
            rows = (forms == form).nonzero()[:, 0]
            if form != Form.NONE and len(rows):
                parts.append((rows, fused.sums(queries.rows(rows), spec, form)))
        left = forms == Form.NONE
    sharp = queries.sharp(scale)
    for centre, mask in ((None, left & ~sharp), (scale.centre, left & sharp)):
        rows_of_blocks = torch.split(mask.nonzero()[:, 0], query_block(mask.device)) if mask.any() else ()
        for rows in rows_of_blocks:
            sums = _sums(keys, queries.rows(_padded(rows)), centre, spec)
            parts.append((rows, sums.take(torch.arange(len(rows), device=rows.device))))
    return PosteriorSums.gather(parts)


def _padded(rows: Tensor) -> Tensor:
    """Return rows with the last one repeated, so that all threads have whole vectors of the scores of many.

    torch rounds exp2 of the numbers that are left over in another way, and the sums of a pixel would depend
    on how many pixels there are.
    """
    missing = -len(rows) % (_VECTOR * torch.get_num_threads())
    if len(rows) < QUERIES_OF_THREAD // 2 or not missing:  # even blocks of more have at least this many
        return rows
    return torch.cat([rows, rows[-1:].expand(missing)])


def _sums(keys: Keys, queries: Queries, centre: Tensor | None, spec: SumSpec) -> PosteriorSums:
    """Return the sums for a block of queries, for sharp ones if the centre of all tiles is given."""
    if centre is None:
        score = queries.scorer(keys.longest_tile(queries.stratum))
    else:
        score = queries.sharp_scorer(centre)
    outputs = replace(spec.outputs, error=False, bounds=False)  # these follow from the other sums
    sums = PosteriorSums.empty(len(queries), keys.t_length, keys.p_length, outputs, queries.u.device)
    for tile in keys.tiles(queries.stratum, centre):
        raise_if_cancelled(spec.cancelled)
        sums = sums.merge(_tile_sums(tile, *score(tile), outputs, outputs.rows(keys.t_length)))
    return sums.shift(score.common)


def _tile_sums(tile: Tile, scores: Tensor, query_terms: Tensor, outputs: Outputs, rows: int) -> PosteriorSums:
    """Return the sums over one tile.

    log2 w is the sum of `scores`, (Q, m), which is overwritten, and `query_terms`, (Q,).
    """
    score_max = scores.amax(dim=1, keepdim=True)
    top_score, top_key = scores[:, :0], scores[:, :0].long()
    if outputs.top:
        top_score, top_key = scores.topk(min(outputs.top, scores.shape[1]), dim=1)
    w = scores.sub_(score_max).clamp_(min=_FLOOR).exp2_()
    moments = w @ tile.moments[:rows].T  # (Q, rows)
    patches = _patch_sums(tile, w, outputs) if outputs.patch else moments[:, :0].double()
    return PosteriorSums(
        log_max=(score_max[:, 0] + query_terms) / LOG2_E,
        moments=moments.double(),
        patches=patches,
        # BLAS adds the product with one row in an order that depends on Q, with two it does not.
        w2=((w.square_() @ tile.moments[:2].T)[:, :1] if outputs.ess else moments[:, :0]).double(),
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
