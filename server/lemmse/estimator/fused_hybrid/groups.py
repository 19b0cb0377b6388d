"""Groups of keys for mode hybrid on a GPU, on two levels: cells, and the groups of each.

A group is a leaf, or a run of leaves of one cell that fits into a span of the fused kernel.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.fused import FusedKeys
from lemmse.estimator.hybrid import KeyTree
from lemmse.index.clustering.groups import leading_count
from lemmse.index.clustering.moments import Moments
from lemmse.index.storage.packing import LANES

__all__ = ["GroupMoments", "KeyGroups"]


@dataclass(frozen=True, slots=True)
class GroupMoments:
    """Summary statistics of G groups of keys, along the principal axes, relative to the mean of all keys.

    As on a CPU, coordinates after the R leading ones have one variance, and no covariance with the target.
    """

    n: Tensor
    """Number of training patches in each, float32, (G,)."""
    mean: Tensor
    """Mean key μ, float32, (G, P)."""
    variance: Tensor
    """Variance D of each coordinate, float32, (G, P)."""
    target: Tensor
    """Mean target t̄, float32, (G, T)."""
    target_variance: Tensor
    """Variance of the target, float32, (G, T)."""
    cross: Tensor
    """Cov(t, v), float32, (G, T, P)."""
    low: Tensor
    """Least values of the coordinates of the extent, see `Moments`, float32, (E, G)."""
    high: Tensor
    """Greatest values of these, float32, (E, G)."""

    @classmethod
    def of(cls, moments: Moments, n: NDArray[np.integer], device: torch.device) -> "GroupMoments":
        """Return statistics on a device, of groups with n training patches each."""
        variance, cross = moments.variance.copy(), moments.cross.copy()
        leading = min(variance.shape[1], leading_count(variance.shape[1]))
        if leading < variance.shape[1]:
            variance[:, leading:] = variance[:, leading:].mean(axis=1, keepdims=True)
            cross[:, :, leading:] = 0
        return cls(
            n=_on_device(n.astype(np.float32), device),
            mean=_on_device(moments.mean, device),
            variance=_on_device(variance, device),
            target=_on_device(moments.target, device),
            target_variance=_on_device(moments.target_variance, device),
            cross=_on_device(cross, device),
            low=_on_device(moments.low.T, device),
            high=_on_device(moments.high.T, device),
        )

    def __len__(self) -> int:
        """Return the number of groups, G."""
        return len(self.n)


@dataclass(frozen=True, slots=True)
class KeyGroups:
    """The cells of a stratum, and the groups of each."""

    cells: GroupMoments
    """C cells."""
    groups: GroupMoments
    """G groups."""
    first_group: Tensor
    """Cell c has the groups first_group[c] … first_group[c + 1] − 1, int64, (C + 1,)."""
    keys: Tensor
    """Number of distinct keys in each group, int64, (G,)."""
    spans: Tensor
    """Spans of the fused kernel, see `lemmse.estimator.fused.kernel`, int64, (S, 4)."""
    group_of_span: Tensor
    """The group of each span, in ascending order, int64, (S,)."""

    @classmethod
    def of(cls, key_tree: KeyTree, fused: FusedKeys, stratum: int, span: int) -> "KeyGroups":
        """Return the groups of a stratum that has keys.

        Parameters
        ----------
        key_tree : KeyTree
            The keys and their leaves.
        fused : FusedKeys
            The keys for the kernel.
        stratum : int
            Number of the stratum.
        span : int
            Number of lanes of a span, a power of two. Several leaves are a group if they fit into one.
        """
        keys, tree = key_tree.keys, key_tree.tree
        first, last = np.searchsorted(tree.leaf_keys, keys.strata[stratum : stratum + 2])
        begins = _begins(
            tree.leaf_keys[first : last + 1], keys.packed.first_row, tree.cell_leaves - first, span
        )
        n = tree.leaves.counts()[first:last].astype(np.int64)
        leaves = tree.leaves.moments(keys.p_length).take(np.arange(first, last))
        edges = np.append(begins, last - first)
        of_stratum = slice(*np.searchsorted(tree.cell_leaves, [first, last + 1]))
        cells = tree.cell_leaves[of_stratum] - first
        bounds = tree.leaf_keys[first + edges]
        spans = [
            _spans(*fused.place(int(begin), stratum), int(end - begin), keys.p_length, span)
            for begin, end in pairwise(bounds)
        ]

        def moments(edges: NDArray[np.int64]) -> GroupMoments:
            merged = Moments.merge(leaves, n, edges)
            return GroupMoments.of(merged, np.add.reduceat(n, edges[:-1]), keys.device)

        return cls(
            cells=moments(cells),
            groups=moments(edges),
            first_group=_on_device(np.searchsorted(edges, cells), keys.device),
            keys=_on_device(np.diff(bounds), keys.device),
            spans=_on_device(np.array([span for group in spans for span in group]), keys.device),
            group_of_span=_on_device(np.repeat(np.arange(len(spans)), [*map(len, spans)]), keys.device),
        )


def _on_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _begins(
    leaf_keys: NDArray[np.int64], first_row: NDArray[np.int64], cell_leaves: NDArray[np.int64], span: int
) -> NDArray[np.int64]:
    """Return the first leaf of each group: a new one begins with each cell and each part of the keys."""
    cuts = set(cell_leaves.tolist()) | set(np.searchsorted(leaf_keys, first_row).tolist())
    begins, first = [], 0
    for leaf, (start, stop) in enumerate(pairwise(leaf_keys.tolist())):
        if leaf in cuts or leaf == 0 or stop - first > span - LANES:
            begins.append(leaf)
            first = start
    return np.array(begins)


def _spans(
    begin: int, row: int, lane: int, count: int, p_length: int, span: int
) -> list[tuple[int, int, int, int]]:
    """Return the spans of `count` keys, given the place of the first, see `FusedKeys.place`."""
    return [
        (begin + skipped * p_length, row + skipped, max(0, lane - skipped), min(span, lane + count - skipped))
        for skipped in range(0, lane + count, span)
    ]
