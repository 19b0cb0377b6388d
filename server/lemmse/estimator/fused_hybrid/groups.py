"""Groups of keys for mode hybrid on a GPU: runs of leaves that fill a span of the fused kernel."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.fused import FusedKeys
from lemmse.estimator.hybrid import KeyTree
from lemmse.index.clustering.moments import Moments
from lemmse.index.storage.packing import LANES

__all__ = ["KeyGroups"]


@dataclass(frozen=True, slots=True)
class KeyGroups:
    """G groups of the keys of a stratum: each is a run of leaves of one cell."""

    n: Tensor
    """Number of training patches in each, float32, (G,)."""
    keys: Tensor
    """Number of distinct keys in each, int64, (G,)."""
    mean: Tensor
    """Mean key μ along the principal axes, float32, (G, P)."""
    variance: Tensor
    """Variance D of each coordinate, float32, (G, P)."""
    target: Tensor
    """Mean target t̄, float32, (G, T)."""
    target_variance: Tensor
    """Variance of the target, float32, (G, T)."""
    cross: Tensor
    """Cov(t, v), float32, (G, T, P)."""
    spans: Tensor
    """Spans of the fused kernel, see `lemmse.estimator.fused.kernel`, int64, (S, 4)."""
    first_span: Tensor
    """Group g has the spans first_span[g] … first_span[g + 1] − 1, int64, (G + 1,)."""

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
        leaves = np.arange(first, last)
        n = tree.leaves.counts()[first:last].astype(np.int64)
        edges = np.append(begins, last - first)
        moments = Moments.merge(tree.leaves.moments(keys.p_length).take(leaves), n, edges)
        bounds = tree.leaf_keys[first + edges]
        places = [fused.place(int(first_key), stratum) for first_key in bounds[:-1]]
        spans = [
            _spans(*place, int(count), keys.p_length, span)
            for place, count in zip(places, np.diff(bounds), strict=True)
        ]

        def on_device(values: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(keys.device)

        return cls(
            n=on_device(np.add.reduceat(n, begins).astype(np.float32)),
            keys=on_device(np.diff(bounds)),
            mean=on_device(moments.mean),
            variance=on_device(moments.variance),
            target=on_device(moments.target),
            target_variance=on_device(moments.target_variance),
            cross=on_device(moments.cross),
            spans=on_device(np.array([span for group in spans for span in group])),
            first_span=on_device(np.cumsum([0, *map(len, spans)])),
        )

    def __len__(self) -> int:
        """Return the number of groups, G."""
        return len(self.n)


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
