"""The training patches of an index, and the Gaussians fitted to them, with all that searches them."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.exact import exact_sums
from lemmse.estimator.hybrid import Descent, hybrid_sums, load_tree
from lemmse.estimator.keys import load_keys
from lemmse.estimator.mixture import Gaussians
from lemmse.estimator.queries import Queries
from lemmse.estimator.strata import Rows, sum_over_strata
from lemmse.estimator.sums import PosteriorSums, Want
from lemmse.estimator.topk import Neighbours, topk_sums
from lemmse.estimator.work import Cancel
from lemmse.index import Images, Index
from lemmse.index.errors import InvalidArgument
from lemmse.index.images import Pixel

__all__ = ["DEFAULT_K", "DEFAULT_NPROBE", "Local", "Method"]


DEFAULT_K = 1000
"""Neighbours that `topk` sums unless told otherwise."""
DEFAULT_NPROBE = 32
"""Cells that `topk` searches unless told otherwise."""
_MARGIN = 7.0
"""How many e-folds what one group may hide at most lies below the accuracy, since many may hide as much."""


@dataclass(frozen=True, slots=True)
class Method:
    """How to sum over the keys of a stratum."""

    mode: str
    """exact, topk or hybrid."""
    k: int = DEFAULT_K
    """Neighbours that topk sums."""
    nprobe: int = DEFAULT_NPROBE
    """Cells that topk searches."""
    threshold: float = 0.0
    """What a group that hybrid leaves closed may hide, as a logarithm."""
    budget: int | None = None
    """Keys that hybrid sums at most, for each query."""
    error_scale: float = 1.0
    """What the typical error of hybrid is multiplied by for the error that few pixels exceed."""

    def certifying(self, accuracy_db: float, keys: int) -> "Method":
        """How to sum for bounds on the error, of so many distinct keys."""
        # Beyond a sixteenth of the keys the exact sum, which is one product, would be done sooner.
        budget = max(1, keys // 16) if self.budget is None else self.budget
        return replace(self, threshold=-accuracy_db / 20 * math.log(10) - _MARGIN, budget=budget)

    def unseeing(self) -> "Method":
        """How to sum for patches of which nothing was observed: all keys are equally near, k say nothing."""
        return replace(self, mode="exact")


class Local:
    """The keys of an index, and their search.

    Parameters
    ----------
    index : Index
        Its keys are read into memory.
    device : torch.device
        Where they are kept and summed.
    """

    def __init__(self, index: Index, device: torch.device) -> None:
        self.index = index
        self.device = device
        self.keys = load_keys(index, device)
        self.descent = Descent(self.keys, load_tree(index), index.basis)

    def prepare(self) -> None:
        """Read what topk searches, and where hybrid is not exact compile its loops and lay out the keys."""
        _ = self.neighbours
        if self.device.type == "cpu":
            u = torch.zeros(1, self.keys.p_length)
            hybrid_sums(self.descent, Queries.white(u, 1.0), threshold=0.0)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The search of topk, made when it is first asked for: it holds the keys once more."""
        return Neighbours(self.index.neighbours, self.index.strata_cells)

    @cached_property
    def target_range(self) -> tuple[Tensor, Tensor]:
        """Least and greatest target of all keys, float64, (T,) each."""
        leaves = self.descent.tree.leaves
        return (
            torch.from_numpy(leaves.target_low.min(axis=0)).double(),
            torch.from_numpy(leaves.target_high.max(axis=0)).double(),
        )

    @cached_property
    def gaussians(self) -> Gaussians:
        """The mixture of Gaussians.

        Raises
        ------
        InvalidArgument
            The index has none.
        """
        mixture, channels = self.index.mixture, self.index.manifest.channels
        if mixture is None:
            raise InvalidArgument(
                "gaussian_share", f"expected 0, since patches of {self.keys.p_length} numbers have no mixture"
            )
        half = self.index.manifest.patch_size // 2
        first = (half * self.index.manifest.patch_size + half) * channels
        return Gaussians(mixture, slice(first, first + channels), self.device)

    def require_clean_keys(self, argument: str, what: str) -> None:
        """Refuse what takes keys that are the patches of the clean images.

        Raises
        ------
        InvalidArgument
            The index was built for another problem than denoising.
        """
        manifest = self.index.manifest
        if not self.index.problem.denoises:
            raise InvalidArgument(
                argument,
                f"{what} needs an index of physics identity and pre-inverse identity, got an index of "
                f"{manifest.physics} and {manifest.pre_inverse}",
            )

    def patches(self, image: NDArray[Pixel], n: NDArray[np.integer]) -> NDArray[Pixel]:
        """The patches of an image (H, W, C) at positions n, (len(n), P)."""
        manifest = self.index.manifest
        return Images.stack([image]).patches(n, manifest.patch_size, manifest.boundary)

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
        if method.mode == "exact":
            sums = exact_sums(self.keys, queries, stratum=stratum, want=want, cancelled=cancelled)
            return sums.certain(self.keys.t_length, want, about)
        if method.mode == "hybrid":
            return hybrid_sums(
                self.descent,
                queries,
                threshold=method.threshold,
                budget=method.budget,
                about=about,
                stratum=stratum,
                want=want,
                cancelled=cancelled,
            )
        return topk_sums(
            self.keys,
            self.neighbours,
            queries,
            k=method.k,
            nprobe=method.nprobe,
            stratum=stratum,
            want=want,
            cancelled=cancelled,
        )

    def keys_that_count(self, stratum: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many keys count for queries of these strata, equal ones included."""
        if not self.index.strata.exclusive:
            return np.full(len(stratum), self.keys.weight)
        return np.array(self.keys.weights)[stratum]

    def distinct_keys_that_count(self, stratum: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many distances that takes."""
        if not self.index.strata.exclusive:
            return np.full(len(stratum), self.keys.count)
        return np.array([self.keys.count_in(number) for number in range(len(self.index.strata))])[stratum]

    def whitened_sums(
        self,
        u: NDArray[np.float64],
        stratum: NDArray[np.int64],
        sigma: float,
        method: Method,
        want: Want,
        cancelled: Cancel,
        about: Tensor | None = None,
    ) -> PosteriorSums:
        """Sums over all keys that count for patches of B y, (Q, P), of these strata; else as `View.sums`."""
        strata = self.index.strata

        def sums_in(queries: Queries, number: int, rows: Rows) -> PosteriorSums:
            how = method if strata.rank[number] else method.unseeing()
            return self.sums(queries, number, how, want, cancelled, None if about is None else about[rows])

        sums = sum_over_strata(strata, u, stratum, sigma, sums_in, self.device)
        return sums.shift(-torch.from_numpy(np.log(self.keys_that_count(stratum))).to(self.device))
