"""Posterior sums in mode hybrid on a GPU, block by block of queries.

What to open follows from the same estimates as on a CPU (see `lemmse.estimator.hybrid`), for groups of some
500 keys. Groups are opened as a whole: their keys are not scanned before, and there is one level of them. A
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
from lemmse.estimator.fused_hybrid.group_sums import close, patch_sums, probe
from lemmse.estimator.fused_hybrid.groups import KeyGroups
from lemmse.estimator.fused_hybrid.lists import list_queries
from lemmse.estimator.fused_hybrid.scores import GroupTables
from lemmse.estimator.hybrid import KeyTree
from lemmse.estimator.queries import Queries
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums

if TYPE_CHECKING:
    from lemmse.estimator.fused.launch import Launch

__all__ = ["FusedHybrid"]

_MOST_TARGETS = 7
"""Longest target: each channel takes a product and a pass over all groups."""
_BLOCK = 16_384
"""Most queries that are summed at once."""
_SMALL_BLOCK = 256
"""The same where Triton's interpreter runs."""
_SPAN = 512
"""Number of lanes of a span of the kernel."""
_CANDIDATES = 8
"""Number of groups whose keys are summed in any case, and for the estimate of Σ w."""
_BYTES = 1 << 30
"""Most bytes of partial sums at once."""
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
        tables = GroupTables(self._groups_of(queries.stratum), float(queries.precision))
        forms, parts = self._fused.forms(queries), []
        for form in Form:
            rows = (forms == form).nonzero()[:, 0]
            for some in torch.split(rows, self._block(tables)) if len(rows) else ():
                raise_if_cancelled(spec.cancelled)
                block = queries.rows(some)
                sums = (
                    exact_sums(self._key_tree.keys, block, spec.exact())
                    if form == Form.NONE
                    else self._block_sums(tables, block, spec, form)
                )
                parts.append((some, sums))
        return PosteriorSums.gather(parts)

    def _groups_of(self, stratum: int) -> KeyGroups:
        with self._lock:
            if stratum not in self._groups:
                self._groups[stratum] = KeyGroups.of(self._key_tree, self._fused, stratum, self._span)
            return self._groups[stratum]

    def _block(self, tables: GroupTables) -> int:
        """Return the number of queries to sum at once, for which half of the free memory suffices."""
        device = self._mean.device
        if device.type != "cuda":
            return _SMALL_BLOCK
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max(1, min(_BLOCK, free // 2 // tables.bytes_of_query()))

    def _block_sums(self, tables: GroupTables, queries: Queries, spec: SumSpec, form: Form) -> PosteriorSums:
        keys, outputs = self._key_tree.keys, spec.outputs
        u = ((queries.u.double() - self._mean) @ self._axes).float()
        distances = tables.distances(u)
        log_mass, candidates = probe(tables, distances, _CANDIDATES)
        launch = self._fused.launch(queries, replace(outputs, error=False), form)
        each = torch.arange(len(queries), device=u.device).repeat_interleave(candidates.shape[1])
        found = self._key_sums(launch, tables.groups, each, candidates.flatten(), spec)
        log_z = torch.logaddexp(found.log_z, log_mass).float()
        opened, closed, masses = close(tables, distances, log_z, spec.threshold, candidates, outputs)
        if outputs.patch:
            closed_patches = patch_sums(tables, u, masses, self._axes, self._mean)
            closed = replace(closed, patches=keys.unwhitened(closed_patches))
        del distances, masses
        pairs = opened.nonzero()
        more = self._key_sums(launch, tables.groups, pairs[:, 0], pairs[:, 1], spec)
        total = closed.merge(found.merge(more).with_exact_errors(keys.t_length, outputs))
        high = (log_z.double() - total.log_z > _TOO_HIGH).nonzero()[:, 0]
        if not len(high):
            return total
        return total.put(high, exact_sums(keys, queries.rows(high), spec.exact(), self._fused))

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
