"""The training patches of an index, and the Gaussians fitted to them, wherever the keys lie."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.gaussians import Gaussians
from lemmse.estimator.method import Method
from lemmse.estimator.queries import Queries
from lemmse.estimator.sums import PosteriorSums, Want
from lemmse.index import Index
from lemmse.index.images.stack import Images, Pixel

__all__ = ["Backend", "Extent"]


@dataclass(frozen=True, slots=True)
class Extent:
    """How many keys there are, and what their targets are within."""

    weights: tuple[int, ...]
    """Training patches that have the keys of each stratum."""
    counts: tuple[int, ...]
    """Distinct keys of each stratum."""
    low: Tensor
    """Least target of all keys, float64, (T,)."""
    high: Tensor
    """Greatest target of all keys, float64, (T,)."""

    def merge(self, other: "Extent") -> "Extent":
        """That of two disjoint sets of keys."""
        return Extent(
            tuple(map(sum, zip(self.weights, other.weights, strict=True))),
            tuple(map(sum, zip(self.counts, other.counts, strict=True))),
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )


class Backend(ABC):
    """The training patches of an index.

    Parameters
    ----------
    index : Index
        The index.
    device : torch.device
        Where queries and sums are.
    """

    def __init__(self, index: Index, device: torch.device) -> None:
        self.index = index
        self.device = device

    @property
    @abstractmethod
    def extent(self) -> Extent:
        """How many keys there are, and what their targets are within."""

    @abstractmethod
    def prepare(self) -> None:
        """Do now what the first queries would wait for."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held elsewhere."""

    @abstractmethod
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

    @abstractmethod
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
        """Sums over all keys that count for patches of B y, (Q, P), of these strata.

        They are those of densities, not yet divided by how many keys count.
        """

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
        """Return the sums over all keys that count for patches of B y, (Q, P), of these strata."""
        sums = self.strata_sums(u, stratum, sigma, method, want, cancelled, about)
        return sums.shift(-torch.from_numpy(np.log(self.keys_that_count(stratum))).to(self.device))

    def keys_that_count(self, stratum: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many keys count for queries of these strata, equal ones included."""
        return self._that_count(self.extent.weights, stratum)

    def distinct_keys_that_count(self, stratum: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many distances that takes."""
        return self._that_count(self.extent.counts, stratum)

    def _that_count(self, numbers: tuple[int, ...], stratum: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self.index.strata.exclusive:
            return np.full(len(stratum), sum(numbers))
        return np.array(numbers)[stratum]

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
            raise InvalidArgument.of(
                "gaussian_share",
                f"expected 0, since patches of {self.index.patch_length} numbers have no mixture",
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
            raise InvalidArgument.of(
                argument,
                f"{what} needs an index of physics identity and pre-inverse identity, got an index of "
                f"{manifest.physics} and {manifest.pre_inverse}",
            )

    def patches(self, image: NDArray[Pixel], n: NDArray[np.integer]) -> NDArray[Pixel]:
        """The patches of an image (H, W, C) at positions n, (len(n), P)."""
        manifest = self.index.manifest
        return Images.stack([image]).patches(n, manifest.patch_size, manifest.boundary)
