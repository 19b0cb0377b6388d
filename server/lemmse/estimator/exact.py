"""Mode exact: the sums over all keys of a stratum, tile by tile.

One matrix product gives the scores log w of a tile of m keys for Q queries (see `queries`), and another, of
the weights with the moments of the targets, gives all sums. The means of whole patches need a further product
with the keys. Sharp queries (see `queries`) are scored in float64.

On a GPU, one kernel does all of this for most requests (see `fused`). It leaves to these products lists of
the heaviest keys, targets of more than 31 numbers, whole patches of more than 512, and queries that float16
numbers do not resolve.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lemmse.estimator.cancellation import QUERIES_OF_THREAD, even_blocks, query_block, raise_if_cancelled
from lemmse.estimator.fused import Form, FusedKeys
from lemmse.estimator.keys import Keys, Tile
from lemmse.estimator.queries import LOG2_E, Queries, Scorer
from lemmse.estimator.sum_spec import EXACT, SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums

__all__ = ["blocks_to_score", "exact_sums", "scorer", "weights"]

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
    left = torch.ones(len(queries), dtype=torch.bool, device=queries.u.device)
    parts = []
    if fused is not None and fused.computes(spec.outputs):
        forms = fused.forms(queries)
        for form in Form:
            rows = (forms == form).nonzero()[:, 0]
            if form != Form.NONE and len(rows):
                parts.append((rows, fused.sums(queries.rows(rows), spec, form)))
        left = forms == Form.NONE
    for rows, centre in blocks_to_score(keys, queries, left):
        sums = _sums(keys, queries.rows(_padded(rows)), centre, spec)
        parts.append((rows, sums.take(torch.arange(len(rows), device=rows.device))))
    return PosteriorSums.gather(parts)


def blocks_to_score(
    keys: Keys, queries: Queries, some: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the numbers of a block of queries, and the centre of the tiles to score with `scorer`.

    The centre is that of all tiles for sharp queries, and None for others, whose tiles have their own.

    Parameters
    ----------
    keys : Keys
        The whitened keys.
    queries : Queries
        The whitened query patches.
    some : Tensor, optional
        Which queries to score, bool, (Q,); by default all.
    """
    scale, step = keys.scale(queries.stratum), query_block(queries.u.device)
    sharp = queries.sharp(scale)
    wanted = torch.ones_like(sharp) if some is None else some
    for centre, mask in ((None, wanted & ~sharp), (scale.centre, wanted & sharp)):
        if mask.any():
            for rows in torch.split(mask.nonzero()[:, 0], step):
                yield rows, centre


def scorer(keys: Keys, queries: Queries, centre: Tensor | None) -> Scorer:
    """Return the scorer of a block of queries, of sharp ones if the centre of all tiles is given."""
    if centre is None:
        return queries.scorer(keys.longest_tile(queries.stratum))
    return queries.sharp_scorer(centre)


def weights(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of a tile of keys, relative to the largest, and the largest score, (Q, m), (Q, 1).

    The scores, log2 w, are overwritten.
    """
    score_max = scores.amax(dim=1, keepdim=True)
    return scores.sub_(score_max).clamp_(min=_FLOOR).exp2_(), score_max


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
    score = scorer(keys, queries, centre)
    outputs = replace(spec.outputs, error=False, bounds=False)  # these follow from the other sums
    sums = PosteriorSums.empty(len(queries), keys.t_length, keys.p_length, outputs, queries.u.device)
    for tile in keys.tiles(queries.stratum, centre):
        raise_if_cancelled(spec.cancelled)
        sums = sums.merge(_tile_sums(keys, tile, *score(tile), outputs))
    return sums.shift(score.common)


def _tile_sums(
    keys: Keys, tile: Tile, scores: Tensor, query_terms: Tensor, outputs: Outputs
) -> PosteriorSums:
    """Return the sums over one tile.

    log2 w is the sum of `scores`, (Q, m), which is overwritten, and `query_terms`, (Q,).
    """
    top_score, top_key = scores[:, :0], scores[:, :0].long()
    if outputs.top:
        top_score, top_key = scores.topk(min(outputs.top, scores.shape[1]), dim=1)
    w, score_max = weights(scores)
    moments = w @ tile.moments[: outputs.rows(keys.t_length)].T  # (Q, rows)
    patches = _patch_sums(keys, tile, w, outputs) if outputs.patch else moments[:, :0].double()
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


def _patch_sums(keys: Keys, tile: Tile, w: Tensor, outputs: Outputs) -> Tensor:
    """Return Σ w v and, with the variance, Σ w v² of the clean patches v of one tile, (Q, P or 2P)."""
    centred, centre = tile.features[:-1], keys.unwhitened(tile.centre.double())
    n_w = w * tile.moments[0]  # each key counts with its multiplicity
    total = n_w.sum(dim=1, keepdim=True).double()
    first = keys.unwhitened((n_w @ centred.T).double())
    sums = [first + total * centre]
    if outputs.variance:
        second = (n_w @ keys.unwhitened(centred.T).square()).double()
        sums.append(second + 2 * centre * first + total * centre.square())
    return torch.cat(sums, dim=1)
