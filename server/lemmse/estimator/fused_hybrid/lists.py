"""Lists of the queries that open each span, in blocks that the fused kernel sums at once."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lemmse.estimator.fused_hybrid.groups import KeyGroups

__all__ = ["list_queries"]


def list_queries(
    groups: KeyGroups, query: Tensor, group: Tensor, block: int, most: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield lists of queries and the spans that they are summed over, as `Launch.listed_sums` needs them.

    Parameters
    ----------
    groups : KeyGroups
        The groups.
    query, group : Tensor
        Pairs of a query and a group that it opens, int64, (n,).
    block : int
        Number of queries in a block.
    most : int
        Most rows of a list, a multiple of `block`.
    """
    first, count = groups.first_span[group], groups.first_span[group + 1] - groups.first_span[group]
    pair = torch.repeat_interleave(count)
    number = torch.arange(len(pair), device=pair.device) - (count.cumsum(0) - count)[pair]
    span, order = (first[pair] + number).sort(stable=True)
    query = query[pair][order]
    queries_of = torch.bincount(span, minlength=len(groups.spans))  # (S,)
    blocks_of = (queries_of + block - 1) // block
    rank = torch.arange(len(span), device=span.device) - (queries_of.cumsum(0) - queries_of)[span]
    place = (blocks_of.cumsum(0) - blocks_of)[span] * block + rank
    places = torch.repeat_interleave(blocks_of)
    listed = torch.full((len(places) * block,), -1, dtype=torch.int64, device=span.device)
    listed[place] = query
    if len(places):
        yield from zip(torch.split(listed, most), torch.split(places, most // block), strict=True)
