"""The backend interface: sums over the keys of an index, independent of where the keys are stored.

`local` implements it for keys in this process, `distributed` for keys on Dask workers.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.covariances import Covariances
from lemmse.estimator.gaussians import Gaussians
from lemmse.estimator.image_patches import ImagePatches
from lemmse.estimator.queries import Queries
from lemmse.estimator.rates import Times
from lemmse.estimator.stratum_sums import ColouredQueries
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums
from lemmse.estimator.training_images import TrainingImages
from lemmse.estimator.whitening import Whitening
from lemmse.index import Index
from lemmse.index.images.stack import Pixel

__all__ = ["DEFAULT_EXACT_WORK", "Backend", "Extent"]

DEFAULT_EXACT_WORK = 1e11
"""Default limit of the multiply-adds, Q·U·P, for which mode auto is exact: a few seconds on two cores."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Numbers of keys, and range of the targets, of a set of keys."""

    weights: tuple[int, ...]
    """Number of training patches in each stratum, equal ones included."""
    counts: tuple[int, ...]
    """Number of distinct keys in each stratum."""
    low: Tensor
    """Least target of all keys, per target channel, float64, (T,)."""
    high: Tensor
    """Greatest target of all keys, per target channel, float64, (T,)."""

    def merge(self, other: "Extent") -> "Extent":
        """Return the extent of the union of two disjoint sets of keys."""
        return Extent(
            tuple(map(sum, zip(self.weights, other.weights, strict=True))),
            tuple(map(sum, zip(self.counts, other.counts, strict=True))),
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )


class Backend(ABC):
    """Sums over the keys of an index.

    Parameters
    ----------
    index : Index
        The index.
    device : torch.device
        Device of the queries and sums.
    most_exact_work : float
        Largest number of multiply-adds for which mode auto is exact on a CPU.
    """

    searches: ClassVar[bool] = True
    """Whether the nearest keys of a query can be searched, as mode topk does."""

    def __init__(
        self, index: Index, device: torch.device, most_exact_work: float = DEFAULT_EXACT_WORK
    ) -> None:
        self.index = index
        self.device = device
        self.most_exact_work = most_exact_work
        self.times: dict[Hashable, Times] = {}
        """Measured times of sums on a GPU, by what they depend on, see `modes`."""

    @property
    def compiled_hybrid(self) -> bool:
        """Whether mode hybrid sums by its compiled loops, to which calibrations apply."""
        return self.device.type == "cpu"

    def hybrid_computes(self, outputs: Outputs, *, white: bool) -> bool:
        """Return whether mode hybrid can compute these outputs.

        Its compiled loops run on the CPU only. The summary statistics of a group are along principal axes:
        with a precision for each pixel they give neither bounds nor the mean of whole patches, and in no case
        the variances of the pixels of patches. The heaviest key is searched for, which not all backends can.
        """
        if not self.compiled_hybrid or (outputs.top and not self.searches):
            return False
        if outputs.patch and (outputs.bounds or outputs.variance):
            return False
        return white or not (outputs.bounds or outputs.patch)

    @property
    @abstractmethod
    def extent(self) -> Extent:
        """Numbers of keys, and range of their targets."""

    @abstractmethod
    def sums(self, queries: Queries | ColouredQueries, spec: SumSpec) -> PosteriorSums:
        """Return the posterior sums over all keys that count for each query.

        For `Queries` these are the keys of one stratum, and weights omit the normalizing constants of their
        densities. For `ColouredQueries` weights are densities, not yet divided by the number of keys that
        count.

        Parameters
        ----------
        queries : Queries or ColouredQueries
            The query patches, (Q, P).
        spec : SumSpec
            The specification of the sums.

        Raises
        ------
        Cancelled
            `spec.cancelled()` was true.
        """

    @abstractmethod
    def covariances(self, queries: Queries, directions: Tensor, cancelled: Cancel) -> Covariances:
        """Return the covariances over all keys of a stratum, see `covariances.key_covariances`."""

    @abstractmethod
    def prepare(self) -> None:
        """Load data and compile code that the first queries would otherwise wait for."""

    @abstractmethod
    def close(self) -> None:
        """Release the resources that other processes hold for this backend."""

    def keys_that_count(self, stratum: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of training patches that count for queries of these strata, (Q,)."""
        return self._that_count(self.extent.weights, stratum)

    def distinct_keys_that_count(self, stratum: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of distinct keys that count for queries of these strata, (Q,)."""
        return self._that_count(self.extent.counts, stratum)

    def _that_count(self, numbers: tuple[int, ...], stratum: NDArray[np.int64]) -> NDArray[np.int64]:
        if not self.index.strata.exclusive:
            return np.full(len(stratum), sum(numbers))
        return np.array(numbers)[stratum]

    @property
    def centre(self) -> slice:
        """Coordinates of the centre pixel in a flattened patch."""
        manifest = self.index.manifest
        p, p_z = manifest.patch_size, manifest.patch_depth
        first = ((p_z // 2 * p + p // 2) * p + p // 2) * manifest.channels
        return slice(first, first + manifest.channels)

    @cached_property
    def gaussians(self) -> Gaussians:
        """The mixture of Gaussians fitted to the training patches.

        Raises
        ------
        InvalidArgument
            The index has none.
        """
        mixture = self.index.mixture
        if mixture is None:
            raise InvalidArgument.of(
                "gaussian_share",
                f"expected 0, since index {self.index.name!r} has no Gaussians; one of shorter patches, or "
                "built again, may have them",
            )
        return Gaussians(mixture, self.centre, self.device, self.index.strata.unwhitener)

    def require_clean_keys(self, argument: str, what: str) -> None:
        """Raise InvalidArgument unless the keys are patches of clean images, A = B = I, whitened or not.

        Parameters
        ----------
        argument : str
            Name of the argument that needs such keys.
        what : str
            Description of the feature that needs them, for the message.
        """
        self._require(argument, what, "", self.index.problem.denoises)

    def require_white_noise(self, argument: str, what: str) -> None:
        """Raise InvalidArgument unless the keys are patches of the clean images, and the noise is white."""
        problem = self.index.problem
        self._require(argument, what, ", with white noise", problem.denoises and problem.white)

    def _require(self, argument: str, what: str, further: str, condition: bool) -> None:
        if not condition:
            raise InvalidArgument.of(
                argument,
                f"{what} needs an index of physics identity and pre-inverse identity{further}, got one of "
                f"{self.index.problem.summary}",
            )

    @cached_property
    def training_images(self) -> TrainingImages:
        """The training images as MMSE and E-MMSE compare them, on the device of the keys."""
        return TrainingImages(self.index, self.device)

    @cached_property
    def whitening(self) -> Whitening:
        """The whitening of query patches on the device of the keys."""
        return Whitening(self.index.strata, self.device)

    def cut(self, image: NDArray[Pixel]) -> ImagePatches:
        """Return the patches of an image or a volume, (D, H, W, C), on the device of the keys."""
        manifest = self.index.manifest
        sides = manifest.patch_depth, manifest.patch_size, manifest.patch_size
        return ImagePatches(image, sides, manifest.boundary, self.device)

    def patches(self, image: NDArray[Pixel], n: NDArray[np.int64]) -> NDArray[Pixel]:
        """Return the patches of an image or a volume at positions n, in host memory, (len(n), P)."""
        cut: NDArray[Pixel] = self.cut(image).at(n).cpu().numpy()
        return cut
