"""The results of a request."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Contributor", "Diagnostics", "Explanation", "Reconstruction"]


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """How an answer was computed."""

    mode: str
    """The mode that ran: exact, topk or hybrid."""
    index: str
    """Name of the index that answered."""
    version: str
    """Version of that index."""
    keys: int
    """Number of keys of the index, equal ones included, M."""
    keys_touched: float
    """Distinct keys evaluated for a patch, mean over the image."""
    seconds: float
    """Time of the computation."""
    expected_accuracy_db: float | None
    """Expected agreement with the sum over all keys, PSNR in dB, by the calibration of the index; None if the
    sum was exact or no calibration applies."""
    certified: float | None
    """Share of pixels and channels whose certified error is within the requested accuracy; None if no
    certified error was requested."""
    aggregate: str
    """"centre": each pixel is the posterior mean given the patch centred at it; "overlap": the mean of those
    given all patches that contain it."""
    bandwidth: float
    """Standard deviation τ of the Gaussian about each training patch of the prior, in intensities."""
    gaussian_share: float
    """Share γ of the mixture of Gaussians in the prior."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A reconstructed image; maps that were not requested are None."""

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
    """Bound on |image − sum over all keys|, for 95 % of pixels if estimated and for all if certified;
    intensities, shape of y."""
    diagnostics: Diagnostics
    """How it was computed."""


@dataclass(frozen=True, slots=True)
class Contributor:
    """A training patch and its weight in one pixel."""

    image: int
    """Number of the training image, from 0."""
    source: str
    """Source of that image, for example its path."""
    row: int
    """Row of the patch's centre in the training image."""
    column: int
    """Column of the patch's centre."""
    weight: float
    """Share of the posterior weight, in [0, 1]."""
    value: tuple[float, ...]
    """The clean centre pixel, length C."""
    symmetry: str
    """Symmetry of the copy of the training image that the patch is from, for example "rotate-90"; "identity"
    is the image itself."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The training patches of largest weight in one pixel."""

    contributors: tuple[Contributor, ...]
    """The training patches, heaviest first."""
    diagnostics: Diagnostics
    """How it was computed."""
