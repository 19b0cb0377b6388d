"""Results: images with their maps, contributors, and descriptions of indexes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RESULT_MAPS",
    "Contributor",
    "Diagnostics",
    "Explanation",
    "IndexInfo",
    "MapInfo",
    "Result",
    "result_bytes",
]


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """How an answer was computed, and its cost."""

    mode: str
    """The mode that ran: exact, topk or hybrid."""
    index: str
    """Name of the index that answered."""
    version: str
    """Version of that index."""
    keys: int
    """Keys of the index, with their multiplicities, M."""
    keys_touched: float
    """Distinct keys evaluated, mean over the patches of the image."""
    seconds: float
    """Time of computation, without queue and transport."""
    expected_accuracy_db: float | None
    """Expected agreement with the sum over all keys, PSNR in dB, from the index's calibration; None where it
    was not measured, and where all keys were summed."""
    certified: float | None
    """Share of pixels and channels whose certified error is within the requested accuracy; None where no
    certified error was requested."""
    aggregate: str
    """What a pixel is: the posterior mean of the patch centred at it ("centre"), or the mean of those of all
    patches that contain it ("overlap")."""
    bandwidth: float
    """Standard deviation τ of the Gaussian around each patch of the prior, in intensities of [0, 1]."""
    gaussian_share: float
    """Share γ of the prior that the Gaussians have beside the training patches."""


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the numbers of a result map are."""

    per_channel: bool
    """Whether there is one for each channel of a pixel, else one for each pixel."""
    power: int
    """Power of the intensity unit that they are in."""


def _map(*, per_channel: bool, power: int) -> dict[str, Any]:
    """Return the metadata of the field of a map."""
    return {"map": MapInfo(per_channel, power)}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """A reconstructed image, in the range of y; a map that was not requested is None."""

    image: NDArray[np.float32]
    """The posterior mean, shape of y."""
    diagnostics: Diagnostics
    """How it was computed."""
    variance: NDArray[np.float32] | None = field(default=None, metadata=_map(per_channel=True, power=2))
    """Posterior variance of each pixel and channel, in the squared unit of y, shape of y."""
    ess: NDArray[np.float32] | None = field(default=None, metadata=_map(per_channel=False, power=0))
    """Effective sample size of the posterior weights, 1 … M, (H, W)."""
    log_density: NDArray[np.float32] | None = field(default=None, metadata=_map(per_channel=False, power=0))
    """Natural log of the density of the noisy patch, in intensities, under the prior and the noise, (H, W);
    without Gaussians log (1/M) Σ_km N(u; v_km, σ² I)."""
    error: NDArray[np.float32] | None = field(default=None, metadata=_map(per_channel=True, power=1))
    """Bound on |image − sum over all keys| for 95 % of pixels (estimated) or always (certified), in the unit
    of y, shape of y."""

    def scaled(self, white_level: float) -> "Result":
        """Return a result in intensities in the range where intensity 1 is `white_level`."""
        if white_level == 1:
            return self
        maps = {
            name: values * np.float32(white_level**info.power)
            for name, info in RESULT_MAPS.items()
            if (values := getattr(self, name)) is not None and info.power
        }
        return replace(self, image=self.image * np.float32(white_level), **maps)

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The image and its maps, by name."""
        arrays = {name: getattr(self, name) for name in ("image", *RESULT_MAPS)}
        return {name: array for name, array in arrays.items() if array is not None}


RESULT_MAPS: Mapping[str, MapInfo] = {f.name: f.metadata["map"] for f in fields(Result) if f.metadata}
"""The maps that a result may have beside its image."""


def result_bytes(shape: Sequence[int], maps: Collection[str]) -> int:
    """Return the bytes of a result.

    Parameters
    ----------
    shape : sequence of int
        Shape of the measurement, (H, W) or (H, W, C).
    maps : collection of str
        Requested maps.

    Examples
    --------
    >>> result_bytes((10, 10, 3), {"variance", "ess"})
    2800
    """
    per_channel = 1 + sum(RESULT_MAPS[name].per_channel for name in maps)
    per_pixel = 1 + len(maps) - per_channel
    return np.dtype(np.float32).itemsize * (per_channel * prod(shape) + per_pixel * prod(shape[:2]))


@dataclass(frozen=True, slots=True)
class Contributor:
    """A training patch and its share of the posterior weight at one pixel."""

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
    """Symmetric copy of the training image that the patch was cut from, for example "rotate-90"; "identity"
    is the image itself."""

    def scaled(self, white_level: float) -> "Contributor":
        """Return a contributor in intensities in the range where intensity 1 is `white_level`."""
        return replace(self, value=tuple(value * white_level for value in self.value))


@dataclass(frozen=True, slots=True)
class Explanation:
    """The heaviest contributors to one pixel."""

    contributors: tuple[Contributor, ...]
    """Heaviest first."""
    diagnostics: Diagnostics
    """How they were computed."""


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
