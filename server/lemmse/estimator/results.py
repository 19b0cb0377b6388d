"""What a reconstruction returns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Contributor", "Diagnostics", "Explanation", "Reconstruction"]


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
    """Keys of the index, equal ones included, M."""
    keys_touched: float
    """Distinct keys whose distance was computed, mean over the patches of the image."""
    seconds: float
    """Time of computation."""
    expected_accuracy_db: float | None
    """Agreement with the sum over all keys to be expected, PSNR in dB, where the index's calibration says it
    and something was approximated."""
    certified: float | None
    """Share of pixels and channels whose certified error is within the accuracy asked for; None where no
    certified error was asked for."""
    aggregate: str
    """What a pixel is: the posterior mean of the patch centred at it ("centre"), or the mean of those of all
    patches that hold it ("overlap")."""
    bandwidth: float
    """Standard deviation of the Gaussian around each patch of the prior, τ, in intensities."""
    gaussian_share: float
    """Share of the prior that the Gaussians had beside the training patches."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A reconstructed image; a map that was not asked for is None."""

    image: NDArray[np.float32]
    """The posterior mean, intensities, shape of y."""
    variance: NDArray[np.float32] | None
    """Posterior variance of each pixel and channel, squared intensities, shape of y."""
    ess: NDArray[np.float32] | None
    """Effective sample size of the posterior weights, 1 … M, (H, W)."""
    log_density: NDArray[np.float32] | None
    """Natural log of the density of the noisy patch under the prior and the noise, for the training patches
    log (1/M) Σ_km N(u; v_km, σ² I), (H, W)."""
    error: NDArray[np.float32] | None
    """What |image − sum over all keys| is below, for 95 % of pixels if estimated and always if certified;
    intensities, shape of y."""
    diagnostics: Diagnostics
    """What it took."""


@dataclass(frozen=True, slots=True)
class Contributor:
    """A training patch and its share in one pixel."""

    image: int
    """Number of the training image, from 0."""
    source: str
    """Where that image came from."""
    row: int
    """Row of the patch's centre in the training image."""
    column: int
    """Column of the patch's centre."""
    weight: float
    """Share of the posterior weight, in [0, 1]."""
    value: tuple[float, ...]
    """The clean centre pixel, length C."""
    symmetry: str
    """Which copy of the training image the patch was cut from, for example "rotate-90"; "identity" is the
    image itself."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where one pixel comes from."""

    contributors: tuple[Contributor, ...]
    """The training patches that weigh most, heaviest first."""
    diagnostics: Diagnostics
    """What it took."""
