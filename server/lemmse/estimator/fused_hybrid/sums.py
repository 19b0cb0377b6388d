"""Posterior sums in mode hybrid on a GPU, block by block of queries.

What to open follows from the same estimates as on a CPU (see `lemmse.estimator.hybrid`), first for cells,
then for the groups of those that are opened. A cell with few decisive keys is opened if its box may contain
one, and its groups are then judged by their moments: no key is compared before its group is opened. A
threshold therefore opens more keys, and means another accuracy, than on a CPU.
"""

from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lemmse.estimator.cancellation import raise_if_cancelled
from lemmse.estimator.exact import exact_sums
from lemmse.estimator.fused import Form, FusedKeys
from lemmse.estimator.fused_hybrid.group_sums import BLOCK, ClosedSums, probe
from lemmse.estimator.fused_hybrid.groups import KeyGroups
from lemmse.estimator.fused_hybrid.tables import GroupQueries, GroupTables
from lemmse.estimator.fused_hybrid.visits import MOST_PAIRS, Visits, list_queries
from lemmse.estimator.hybrid import KeyTree
from lemmse.estimator.queries import Queries
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums

if TYPE_CHECKING:
    from lemmse.estimator.fused.launch import Launch

__all__ = ["FusedHybrid"]

_MOST_TARGETS = 7
"""Longest target: each channel takes products with all groups."""
_BLOCK = 16_384
"""Most queries that are summed at once."""
_SMALL_BLOCK = 256
"""The same where Triton's interpreter runs."""
_SPAN = 256
"""Number of lanes of a span of the kernel: a group has 224 keys at most, unless a leaf has more."""
_CANDIDATES = 16
"""Number of cells whose heaviest group is summed in any case, and for the estimate of Σ w."""
_BYTES_OF_CELL = 40
"""Memory that a query takes for each cell."""
_BYTES = 1 << 30
"""Most bytes of partial sums at once."""
_OPENED = 1 << 23
"""Most pairs of a query and a group that it opens at once: lists of them take some 80 bytes each."""
_TOO_HIGH = 8.0
"""Queries whose estimate of log Σ w exceeds what was found by more are summed over all keys."""


class FusedHybrid:
    """Mode hybrid for keys that the fused kernel sums.

    Parameters
    ----------
    key_tree : KeyTree
        The keys and their leaves.
    fused : FusedKeys
        The keys for the kernel.
    span : int
        Number of keys of a span of the kernel, and of a group at most, unless a leaf has more.
    """

    def __init__(self, key_tree: KeyTree, fused: FusedKeys, span: int = _SPAN) -> None:
        self._key_tree, self._fused, self._span = key_tree, fused, span
        self._groups: dict[int, KeyGroups] = {}
        self._tables: dict[int, GroupTables] = {}
        self._lock = Lock()
        device = key_tree.keys.device
        self._mean = torch.from_numpy(key_tree.basis.mean).to(device).double()
        self._axes = torch.from_numpy(key_tree.basis.axes).to(device).double()

    def computes(self, outputs: Outputs) -> bool:
        """Return whether these outputs can be computed, for white noise and without a budget."""
        fits = self._fused.computes(outputs) and self._key_tree.keys.t_length <= _MOST_TARGETS
        return fits and not outputs.bounds and not (outputs.patch and outputs.variance)

    def sums(self, queries: Queries, spec: SumSpec) -> PosteriorSums:
        """Return the posterior sums over all keys of the stratum of the queries, in mode hybrid.

        Parameters
        ----------
        queries : Queries
            The whitened query patches, (Q, P), with white noise. Those that float16 does not resolve are
            summed over all keys.
        spec : SumSpec
            Its threshold and outputs are used.

        Raises
        ------
        Cancelled
            `spec.cancelled()` was true.
        """
        tables = self._tables_of(queries.stratum, float(queries.precision))
        forms, parts = self._fused.forms(queries), []
        for form in Form:
            rows = (forms == form).nonzero()[:, 0]
            for some in torch.split(rows, self._block(tables.groups)) if len(rows) else ():
                raise_if_cancelled(spec.cancelled)
                block = queries.rows(some)
                sums = (
                    exact_sums(self._key_tree.keys, block, spec.exact())
                    if form == Form.NONE
                    else self._block_sums(tables, block, spec, form)
                )
                parts.append((some, sums))
        return PosteriorSums.gather(parts)

    def _tables_of(self, stratum: int, precision: float) -> GroupTables:
        """Return the groups of a stratum: those of the last call as long as σ stays the same."""
        with self._lock:
            if stratum not in self._groups:
                self._groups[stratum] = KeyGroups.of(self._key_tree, self._fused, stratum, self._span)
            tables = self._tables.get(stratum)
            if tables is None or tables.precision != precision:
                tables = self._tables[stratum] = GroupTables(self._groups[stratum], precision)
            return tables

    def _block(self, groups: KeyGroups) -> int:
        """Return the number of queries to sum at once, for which a quarter of the free memory suffices."""
        device, most = self._mean.device, max(1, MOST_PAIRS // len(groups.cells))
        if device.type != "cuda":
            return min(_SMALL_BLOCK, most)
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max(1, min(_BLOCK, most, free // 4 // (_BYTES_OF_CELL * len(groups.cells))))

    def _block_sums(self, tables: GroupTables, queries: Queries, spec: SumSpec, form: Form) -> PosteriorSums:
        keys, outputs, groups = self._key_tree.keys, spec.outputs, tables.groups
        u = ((queries.u.double() - self._mean) @ self._axes).float()
        of_groups = GroupQueries(u, groups.cells.low.shape[0])
        launch = self._fused.launch(queries, replace(outputs, error=False), form)
        everyone = torch.arange(len(queries), device=u.device)
        count = torch.full((1,), len(queries), device=u.device)
        all_cells = torch.tensor([0, len(groups.cells)], device=u.device)
        (visits,) = Visits.of(everyone, count, all_cells, BLOCK)
        log_z, forced = self._estimate(tables, of_groups, visits, launch, spec)

        closed = ClosedSums(of_groups, tables.precision, log_z, spec.threshold, keys.t_length, outputs)
        opened = closed.open_cells(tables.cells, visits, forced)
        place = opened.view(-1).nonzero()[:, 0]
        visitors, forced = place % len(queries), forced.view(-1)[place]
        count = opened.sum(dim=1, dtype=torch.int64)
        total = launch.no_sums()
        for visits in Visits.of(visitors, count, groups.first_group, BLOCK):
            raise_if_cancelled(spec.cancelled)
            pairs = closed.open_groups(tables.leaves, visits, forced).nonzero()[:, 0]
            for some in torch.split(pairs, _OPENED):
                row, group = visits.pairs_at(some)
                total = total.merge(self._key_sums(launch, groups, visitors[row], group, spec))
        by_moments = closed.sums(self._axes, self._mean)
        if outputs.patch:
            by_moments = replace(by_moments, patches=keys.unwhitened(by_moments.patches))
        total = total.with_exact_errors(keys.t_length, outputs).merge(by_moments)
        high = (log_z.double() - total.log_z > _TOO_HIGH).nonzero()[:, 0]
        if not len(high):
            return total
        return total.put(high, exact_sums(keys, queries.rows(high), spec.exact(), self._fused))

    def _estimate(
        self, tables: GroupTables, queries: GroupQueries, visits: Visits, launch: "Launch", spec: SumSpec
    ) -> tuple[Tensor, Tensor]:
        """Return an estimate of log Σ w, (Q,), and the groups to open in any case, −1 for none, (C, Q).

        It is the sum over the keys of the heaviest groups of the heaviest cells, at most one of each part of
        the cells, and what the moments of all cells say.
        """
        q, groups = len(queries), tables.groups
        guess = probe(tables.cells, tables.precision, queries, visits)
        largest, cell = guess.largest.view(-1, q), guess.group.view(-1, q)
        cell = cell.gather(0, largest.topk(min(_CANDIDATES, len(largest)), dim=0).indices)  # (n, Q)
        place = (cell * q + torch.arange(q, device=cell.device)).flatten().sort().values
        visitors, count = place % q, torch.bincount(place // q, minlength=len(groups.cells))
        forced = torch.full((len(groups.cells) * q,), -1, dtype=torch.int32, device=cell.device)
        parts = []
        for some in Visits.of(visitors, count, groups.first_group, BLOCK):
            of_leaves = probe(tables.leaves, tables.precision, queries, some)
            parts.append((some.rows(), of_leaves.largest, of_leaves.group))
        row, mass, group = (torch.cat(column) for column in zip(*parts, strict=True))
        heaviest = torch.full_like(place, -torch.inf, dtype=mass.dtype).scatter_reduce(0, row, mass, "amax")
        kept = (mass == heaviest[row]).nonzero()[:, 0]  # of all parts of the groups of a cell
        group, order = group[kept].sort(stable=True)
        row = row[kept][order]
        found = self._key_sums(launch, groups, visitors[row], group, spec)
        forced = forced.scatter_reduce(0, place[row], group.int(), "amax")
        log_mass = guess.log_mass.view(-1, q).logsumexp(dim=0)
        return torch.logaddexp(found.log_z, log_mass).float(), forced.view(-1, q)

    def _key_sums(
        self, launch: "Launch", groups: KeyGroups, query: Tensor, group: Tensor, spec: SumSpec
    ) -> PosteriorSums:
        """Return the sums of all queries of a request over the keys of the groups that they open."""
        from lemmse.estimator.fused.launch import LISTED_BLOCK  # imports Triton

        most = max(1, _BYTES // (launch.bytes_of_query * LISTED_BLOCK)) * LISTED_BLOCK
        total = launch.no_sums()
        for listed, places in list_queries(groups, query, group, LISTED_BLOCK, most):
            raise_if_cancelled(spec.cancelled)
            total = total.merge(launch.listed_sums(groups.spans, self._span, listed, places))
        evaluated = torch.zeros_like(total.keys_evaluated).index_add(0, query, groups.keys[group])
        return replace(total, keys_evaluated=evaluated)
