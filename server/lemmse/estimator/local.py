"""The keys of an index in this process, with all that searches them."""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.backend import Backend, Extent
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.exact import exact_sums
from lemmse.estimator.hybrid import Descent, first_look, hybrid_sums, load_tree
from lemmse.estimator.keys import load_keys
from lemmse.estimator.method import Method, Rows
from lemmse.estimator.queries import Queries
from lemmse.estimator.stratum_sums import sum_over_strata
from lemmse.estimator.sums import PosteriorSums, Want
from lemmse.estimator.topk import Neighbours, topk_sums
from lemmse.index import Index

__all__ = ["LocalBackend"]


class LocalBackend(Backend):
    """The keys of an index, and their search.

    Parameters
    ----------
    index : Index
        Its keys are mapped, and read when they are searched.
    device : torch.device
        Where they are kept and summed.
    """

    def __init__(self, index: Index, device: torch.device) -> None:
        super().__init__(index, device)
        self.keys = load_keys(index, device)
        if device.type != "cpu":
            self.keys.load()
        self.descent = Descent(self.keys, load_tree(index), index.basis, index.sketch)

    def prepare(self) -> None:
        """Read what topk searches, and make hybrid ready."""
        _ = self.neighbours
        self.prepare_hybrid()

    def prepare_hybrid(self) -> None:
        """Where hybrid is not exact compile its loops."""
        if self.device.type == "cpu":
            u = torch.zeros(1, self.keys.p_length)
            stratum = int(np.flatnonzero(self.extent.counts)[0])
            hybrid_sums(self.descent, Queries.white(u, 1.0), threshold=0.0, stratum=stratum)

    def close(self) -> None:
        """Nothing is held elsewhere."""

    @cached_property
    def neighbours(self) -> Neighbours:
        """The search of topk, made when it is first asked for."""
        return Neighbours(self.index.neighbours, self.index.quantization, self.index.stratum_cells)

    @cached_property
    def extent(self) -> Extent:
        """How many keys there are, and what their targets are within."""
        leaves, strata = self.descent.tree.leaves, range(len(self.index.strata))
        return Extent(
            weights=self.keys.weights,
            counts=tuple(self.keys.count_in(stratum) for stratum in strata),
            low=torch.from_numpy(leaves.target_low.min(axis=0)).double(),
            high=torch.from_numpy(leaves.target_high.max(axis=0)).double(),
        )

    def sums(
        self,
        queries: Queries,
        stratum: int,
        method: Method,
        want: Want,
        cancelled: Cancel,
        about: Tensor | None = None,
    ) -> PosteriorSums:
        """Sums over the keys of a stratum, without normalising constants."""
        keys = self.keys
        if not keys.count_in(stratum):  # some shards of an index may hold none of it
            return PosteriorSums.empty(len(queries), keys.t_length, keys.p_length, want, self.device)
        if method.mode == "exact":
            sums = exact_sums(keys, queries, stratum=stratum, want=want, cancelled=cancelled)
            return sums.certain(keys.t_length, want, about)
        if method.mode == "look":
            return first_look(
                self.descent, queries, budget=method.budget, stratum=stratum, cancelled=cancelled
            )
        if method.mode == "hybrid":
            return hybrid_sums(
                self.descent,
                queries,
                threshold=method.threshold,
                budget=method.budget,
                known=method.known,
                about=about,
                stratum=stratum,
                want=want,
                cancelled=cancelled,
            )
        return topk_sums(
            keys,
            self.neighbours,
            queries,
            k=method.k,
            nprobe=method.nprobe,
            stratum=stratum,
            want=want,
            cancelled=cancelled,
        )

    def strata_sums(
        self,
        u: NDArray[np.float64],
        stratum: NDArray[np.int64],
        sigma: float,
        method: Method,
        want: Want,
        cancelled: Cancel,
        about: Tensor | None = None,
    ) -> PosteriorSums:
        """Sums over all keys that count for patches of B y, see `Backend`."""
        strata = self.index.strata

        def sums_in(queries: Queries, number: int, rows: Rows, log_norm: float) -> PosteriorSums:
            how = method.of(rows, log_norm) if strata.rank[number] else method.unseeing()
            return self.sums(queries, number, how, want, cancelled, None if about is None else about[rows])

        return sum_over_strata(strata, u, stratum, sigma, sums_in, self.device)
