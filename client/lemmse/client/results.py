"""What a client returns."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Contributor", "Diagnostics", "IndexInfo", "Result"]


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What was done for an answer, and what it cost."""

    mode: str
    """The mode that ran: exact, topk or hybrid."""
    index: str
    """Name of the index that answered."""
    version: str
    """Its version."""
    keys: int
    """Keys of the index."""
    keys_touched: float
    """Keys whose distance was computed, mean over the patches of the image."""
    seconds: float
    """Time of computation, without queue and transport."""
    expected_accuracy_db: float | None
    """Agreement with the sum over all keys that is to be expected, PSNR in dB, from the index's calibration;
    None where nothing is known, and where all keys were summed."""
    certified: float | None
    """Share of pixels and channels whose certified error is within the accuracy that was asked for; None
    where no certified error was asked for."""
    aggregate: str
    """What a pixel is: the posterior mean of the patch centred at it ("centre"), or the mean of those of all
    patches that hold it ("overlap")."""
    bandwidth: float
    """Standard deviation of the Gaussian around each patch of the prior, in intensities of [0, 1]."""
    gaussian_share: float
    """Share of the prior that the Gaussians had beside the training patches."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A reconstructed image, in the range of y; a map that was not asked for is None."""

    image: NDArray[np.float32]
    """The posterior mean, shape of y."""
    variance: NDArray[np.float32] | None
    """Posterior variance of each pixel and channel, in the squared unit of y, shape of y."""
    ess: NDArray[np.float32] | None
    """Effective sample size of the posterior weights, (H, W)."""
    log_density: NDArray[np.float32] | None
    """Log density of the noisy patch, in intensities, under the training distribution, (H, W)."""
    error: NDArray[np.float32] | None
    """What |image − sum over all keys| is below, for 95 % of pixels if estimated and always if certified,
    shape of y."""
    diagnostics: Diagnostics
    """What was done for it."""

    def in_range(self, white: float) -> "Result":
        """Return a result in intensities as one in the range where `white` is intensity 1."""
        if white == 1:
            return self
        return replace(
            self,
            image=self.image * np.float32(white),
            variance=None if self.variance is None else self.variance * np.float32(white**2),
            error=None if self.error is None else self.error * np.float32(white),
        )


@dataclass(frozen=True, slots=True)
class Contributor:
    """A training patch and its share in a pixel."""

    image: int
    """Number of the training image, in the order of the index, from 0."""
    source: str
    """Where that image came from: a file name, or a number in an array."""
    row: int
    """Row of the patch's centre in the training image."""
    column: int
    """Column of the patch's centre."""
    weight: float
    """Share of the posterior weight, in [0, 1]."""
    value: tuple[float, ...]
    """The clean centre pixel, in the range of y, length C."""
    symmetry: str
    """Which copy of the training image the patch was cut from, for example "rotate-90"; "identity" is the
    image itself."""

    def in_range(self, white: float) -> "Contributor":
        """Return a contributor in intensities as one in the range where `white` is intensity 1."""
        return replace(self, value=tuple(value * white for value in self.value))


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index of translated training patches."""

    name: str
    """Name, unique in a server."""
    version: str
    """Version under that name."""
    digest: str
    """SHA-256 of the training images, in hexadecimal."""
    physics: str
    """The forward operator that it was built for: what makes y from a clean image, before the noise."""
    pre_inverse: str
    """The pre-inverse that it was built for, which is applied where the index is: y is sent as measured."""
    patch_size: int
    """Side of the patches, in pixels."""
    boundary: str
    """How positions outside an image are read."""
    equivariance: str
    """What the estimator commutes with beside translations: "none", or "offset", a constant added to the
    intensities."""
    augment: str
    """Symmetric copies of the training images that were cut into keys: "none", or "dihedral"."""
    channels: int
    """Channels of its images."""
    images: int
    """Training images."""
    keys: int
    """Translated training patches."""
    distinct: int
    """Different keys among them."""
    cells: int
    """Cells that the keys are searched by."""
    image_height: int
    """Height of its images, in pixels; 0 where sizes differ among them."""
    image_width: int
    """Width of its images, in pixels; 0 where sizes differ among them."""
