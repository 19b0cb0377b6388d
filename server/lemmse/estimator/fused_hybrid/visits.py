"""Lists of pairs of a query and a group, in the order of the groups, in blocks that one program takes.

No pair is sorted: what the kernels mark is in the order of the groups, and so is what follows from it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lemmse.estimator.fused_hybrid.groups import KeyGroups

__all__ = ["MOST_PAIRS", "PART", "Visits", "list_queries"]

PART = 16
"""Most groups that a program considers for a block of queries: a cell has some 13, and the registers of a
program hold what it computes for so many."""
MOST_PAIRS = 1 << 27
"""Most pairs of a query and a group that are considered at once."""


@dataclass(frozen=True, slots=True)
class Visits:
    """Queries that visit parents, and the groups of these: V pairs of a query and a group in all."""

    query: Tensor
    """Numbers of the queries, in the order of their parents, int64, (N,)."""
    blocks: Tensor
    """For each program: its first query in `query` and their number, its first group and their number, the
    place of the first pair of these among all, by how much those of the next group are later, and the place
    of the first query among all pairs of a query and a part of the groups, int64, (B, 7)."""
    first: Tensor
    """The place of the first pair of each part of the groups of a parent, int64, (A,)."""
    part: Tensor
    """The first query, their number, and the first group of each part, int64, (A, 3)."""
    pairs: int
    """Number of pairs, V."""
    entries: int
    """Number of pairs of a query and a part of the groups."""

    @classmethod
    def of(cls, query: Tensor, count: Tensor, first_group: Tensor, block: int) -> Iterator["Visits"]:
        """Yield visits, as many at once as memory allows.

        Parameters
        ----------
        query : int64, (N,)
            Numbers of the queries, in the order of their parents.
        count : int64, (C,)
            Number of queries of each parent.
        first_group : int64, (C + 1,)
            Parent c has the groups first_group[c] … first_group[c + 1] − 1.
        block : int
            Most queries of a program.
        """
        groups = first_group.diff()
        parts = (groups + PART - 1) // PART
        parent = torch.repeat_interleave(parts)
        nth = torch.arange(len(parent), device=query.device) - (parts.cumsum(0) - parts)[parent]
        group = first_group[parent] + nth * PART
        size = (first_group[parent + 1] - group).clamp(max=PART)
        row, rows = (count.cumsum(0) - count)[parent], count[parent]
        edges = (rows * size).cumsum(0).cpu().numpy()
        begin = 0
        while begin < len(edges) and edges[-1] > (done := edges[begin - 1] if begin else 0):
            end = max(begin + 1, int(np.searchsorted(edges, done + MOST_PAIRS, side="right")))
            some = slice(begin, end)
            yield cls._of_parts(query, row[some], rows[some], group[some], size[some], block)
            begin = end

    @classmethod
    def _of_parts(
        cls, query: Tensor, row: Tensor, rows: Tensor, group: Tensor, size: Tensor, block: int
    ) -> "Visits":
        blocks = (rows + block - 1) // block
        pairs, entries = (rows * size).cumsum(0), rows.cumsum(0)
        totals = torch.stack([blocks.sum(), pairs[-1], entries[-1]]).tolist()  # waits for the GPU once
        part = torch.repeat_interleave(blocks, output_size=totals[0])
        skipped = block * (torch.arange(len(part), device=row.device) - (blocks.cumsum(0) - blocks)[part])
        columns = (
            row[part] + skipped,
            (rows[part] - skipped).clamp(max=block),
            group[part],
            size[part],
            (pairs - rows * size)[part] + skipped,
            rows[part],
            (entries - rows)[part] + skipped,
        )
        return cls(
            query,
            torch.stack(columns, dim=1),
            pairs - rows * size,
            torch.stack([row, rows, group], dim=1),
            pairs=totals[1],
            entries=totals[2],
        )

    def rows(self) -> Tensor:
        """Return the row of `query` of each pair of a query and a part, int64, (entries,)."""
        row, rows, _ = self.part.unbind(dim=1)
        part = torch.repeat_interleave(rows, output_size=self.entries)
        skipped = torch.arange(len(part), device=part.device) - (rows.cumsum(0) - rows)[part]
        return row[part] + skipped

    def pairs_at(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return row of `query` and group of the pairs at some places, in ascending order, (n,) each."""
        part = torch.searchsorted(self.first, place, right=True) - 1
        row, rows, group = self.part[part].unbind(dim=1)
        place = place - self.first[part]
        return row + place % rows, group + place // rows


def list_queries(
    groups: KeyGroups, query: Tensor, group: Tensor, block: int, most: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield lists of queries and the spans that they are summed over, as `Launch.listed_sums` needs them.

    Parameters
    ----------
    groups : KeyGroups
        The groups.
    query, group : Tensor
        Pairs of a query and a group that it opens, in the order of the groups, int64, (n,).
    block : int
        Number of queries in a block.
    most : int
        Most rows of a list, a multiple of `block`.
    """
    if not len(query):
        return
    count = torch.zeros_like(groups.keys).index_add_(0, group, torch.ones_like(group))  # (G,)
    first = count.cumsum(0) - count
    blocks = ((count + block - 1) // block)[groups.group_of_span]  # (S,)
    places = torch.repeat_interleave(blocks)
    nth = torch.arange(len(places), device=query.device) - (blocks.cumsum(0) - blocks)[places]
    own = groups.group_of_span[places]
    rank = nth[:, None] * block + torch.arange(block, device=query.device)  # (B, block)
    pair = (first[own, None] + rank).clamp(max=len(query) - 1)
    listed = query[pair].where(rank < count[own, None], -1).flatten()
    yield from zip(torch.split(listed, most), torch.split(places, most // block), strict=True)
