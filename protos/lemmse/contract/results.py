"""Results: reconstructed images with their maps, contributors, and descriptions of indexes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import log10, prod
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.arrays import Restore

__all__ = [
    "RESULT_MAPS",
    "Contributor",
    "Diagnostics",
    "Explanation",
    "IndexInfo",
    "MapInfo",
    "NoiseEstimate",
    "Result",
    "combined",
    "result_bytes",
    "with_estimate",
]


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """How an answer was computed, and its cost."""

    mode: str
    """The mode that was used: exact, topk or hybrid."""
    index: str
    """Name of the index that was used."""
    version: str
    """Version of that index."""
    keys: int
    """Number of keys of the index, each counted with its multiplicity, M."""
    keys_touched: float
    """Number of distinct keys evaluated, mean over the patches of the image."""
    seconds: float
    """Computing time in seconds, without queueing and transport."""
    expected_accuracy_db: float | None
    """Expected agreement with the sum over all keys, PSNR in dB, from the calibration of the index; None if
    it was not measured or if all keys were summed."""
    estimated_accuracy_db: float | None
    """Estimated agreement of this image with the sum over all keys, PSNR in dB, at most 100; None if it is
    not estimated: without a calibration, with a budget, or if all keys were summed."""
    certified: float | None
    """Share of pixels and channels whose certified error is within the requested accuracy; None if no
    certified error was requested."""
    aggregate: str
    """How a pixel is estimated: by the posterior mean of the patch centred at it ("centre"), by the average
    of the posterior means of all patches that contain it ("overlap"), or several such averages ("epll")."""
    bandwidth: float
    """Standard deviation τ of the Gaussian around each patch of the prior, in intensities of [0, 1]."""
    gaussian_share: float
    """Weight γ of the mixture of Gaussians in the prior; the training patches have 1 − γ."""
    sigma: tuple[float, ...] = ()
    """Estimated standard deviation of the noise, in intensities of [0, 1]: one number, or one for each
    channel if they differ; empty if the noise was stated. Of Poisson-Gaussian noise it is that in the
    dark."""
    sigma_error: tuple[float, ...] = ()
    """Standard error of each number of `sigma`."""
    gain: float | None = None
    """Gain of Poisson-Gaussian noise of which a part was estimated, in intensities of [0, 1]; None for other
    noise, and if all was stated."""
    expected_psnr_db: float | None = None
    """Expected PSNR of the image, in dB for intensities in [0, 1], over the observed pixels; None if it is
    not known: docs/noise.md says when."""
    misfit: float | None = None
    """Mean square error to expect beyond the posterior variance, in squared intensities of [0, 1]: high where
    the training images do not describe this image. About 0 if σ was estimated. None like
    `expected_psnr_db`."""


def combined(parts: Sequence[tuple[Diagnostics, int]]) -> Diagnostics:
    """Return the diagnostics of an image from those of its tiles, each with its number of pixels.

    Seconds are added, accuracies and scores are those of all pixels together, and the mode is hybrid if that
    of any tile is.
    """
    each = [one for one, _ in parts]
    total = sum(pixels for _, pixels in parts)
    expected = [one.expected_accuracy_db for one in each if one.expected_accuracy_db is not None]
    return replace(
        each[0],
        mode="hybrid" if any(one.mode == "hybrid" for one in each) else each[0].mode,
        keys_touched=sum(one.keys_touched * pixels for one, pixels in parts) / total,
        seconds=sum(one.seconds for one in each),
        expected_accuracy_db=min(expected, default=None),
        estimated_accuracy_db=_mean_db([(one.estimated_accuracy_db, pixels) for one, pixels in parts], total),
        certified=_mean([(one.certified, pixels) for one, pixels in parts]),
        expected_psnr_db=_mean_db([(one.expected_psnr_db, pixels) for one, pixels in parts]),
        misfit=_mean([(one.misfit, pixels) for one, pixels in parts]),
    )


def _mean(parts: Sequence[tuple[float | None, int]]) -> float | None:
    """Return the mean of numbers with their weights, without those that are not known."""
    known = [(value, pixels) for value, pixels in parts if value is not None]
    total = sum(pixels for _, pixels in known)
    return sum(value * pixels for value, pixels in known) / total if known else None


def _mean_db(parts: Sequence[tuple[float | None, int]], total: int | None = None) -> float | None:
    """Return the PSNR in dB of all pixels; of `total` pixels if those that are not known have no error."""
    known = [(10 ** (-db / 10), pixels) for db, pixels in parts if db is not None]
    square = sum(square * pixels for square, pixels in known)
    return -10 * log10(square / (total or sum(pixels for _, pixels in known))) if known else None


@dataclass(frozen=True, slots=True)
class MapInfo:
    """Shape and unit of a map of a result."""

    per_channel: bool
    """Whether the map has one number for each channel of a pixel, instead of one for each pixel."""
    power: int
    """Power of the intensity unit in which the map is expressed: 0 for none, 1 or 2."""


def _map(*, per_channel: bool, power: int) -> dict[str, Any]:
    """Return the metadata of the field for a map."""
    return {"map": MapInfo(per_channel, power)}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """A reconstructed image and its maps, in the range of y; maps that were not requested are None.

    If y is of torch, CuPy, Dask, xarray or another library of the array API standard, so are the image and
    its maps: on the device of y, in its chunks, or with its dimensions and coordinates.
    """

    image: NDArray[np.float32]
    """The posterior mean, float32, in the unit and shape of y."""
    diagnostics: Diagnostics
    """How the image was computed."""
    variance: NDArray[np.float32] | None = field(default=None, metadata=_map(per_channel=True, power=2))
    """Posterior variance of each pixel and channel, in the squared unit and the shape of y."""
    ess: NDArray[np.float32] | None = field(default=None, metadata=_map(per_channel=False, power=0))
    """Effective sample size of the posterior weights, from 1 to M, for each pixel: (H, W) or (D, H, W)."""
    log_density: NDArray[np.float32] | None = field(default=None, metadata=_map(per_channel=False, power=0))
    """Natural log of the density of the noisy patch, in intensities, under the prior and the noise, for
    each pixel; without Gaussians log (1/M) Σ_km N(u; v_km, σ² I)."""
    error: NDArray[np.float32] | None = field(default=None, metadata=_map(per_channel=True, power=1))
    """Bound on |image − sum over all keys|, for 95 % of the pixels (estimated) or for all (certified), in the
    unit and shape of y."""
    source: NDArray[np.float32] | None = field(default=None, metadata=_map(per_channel=False, power=0))
    """Number of the training image, in the order of the index, from which the training patch with the largest
    weight comes, in whole numbers, (H, W); −1 if no training patch counts."""
    white_level: float = 1.0
    """The value of intensity 1 in the image: 1, 255 or 65535 if y was of uint8 or uint16, or what the range
    of y states."""
    black_level: float = 0.0
    """The value of intensity 0 in the image: 0, or what the range of y states."""

    def scaled(self, white_level: float, black_level: float = 0.0) -> "Result":
        """Return a result in intensities, rescaled so that these numbers stand for intensities 1 and 0."""
        if (black_level, white_level) == (0, 1):
            return self
        span = white_level - black_level
        maps = {
            name: values * np.float32(span**info.power)
            for name, info in RESULT_MAPS.items()
            if (values := getattr(self, name)) is not None and info.power
        }
        image = self.image * np.float32(span) + np.float32(black_level)
        return replace(self, image=image, white_level=white_level, black_level=black_level, **maps)

    def restored(self, restore: Restore) -> "Result":
        """Return a result whose arrays are of another library."""
        return replace(self, **{name: restore(values, name) for name, values in self.arrays.items()})

    def save(self, path: str | PathLike[str]) -> None:
        """Write the image to a file, in the format of the name's ending: as a whole, or not at all.

        Parameters
        ----------
        path : str or path
            ".png" has 8 bits from black to white, or 16 if y was of uint16 without a range; values beyond
            are clipped. ".tif", ".tiff" and ".npy" have the float32 of `image`, ".npz" also the maps, by
            their names.

        Raises
        ------
        InvalidArgument
            The ending is another one, or PNG cannot hold the image's channels.
        OSError
            The file cannot be written.
        """
        from lemmse.contract.pictures import save

        save(self, path)

    def _repr_html_(self) -> str:
        """Return the picture with its maps and numbers, which notebooks show."""
        from lemmse.contract.pictures import as_html

        return as_html(self)

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The image and its maps that are not None, by name."""
        arrays = {name: getattr(self, name) for name in ("image", *RESULT_MAPS)}
        return {name: array for name, array in arrays.items() if array is not None}


RESULT_MAPS: Mapping[str, MapInfo] = {f.name: f.metadata["map"] for f in fields(Result) if f.metadata}
"""The maps that a result may have beside its image."""


def result_bytes(shape: Sequence[int], maps: Collection[str]) -> int:
    """Return the size of a result, in bytes.

    It may be less for a y with three axes, if the index reads it as an image with channels.

    Parameters
    ----------
    shape : sequence of int
        Shape of the measurement.
    maps : collection of str
        Names of the requested maps.

    Examples
    --------
    >>> result_bytes((10, 10), {"variance", "ess"}), result_bytes((2, 10, 10, 3), {"variance", "ess"})
    (1200, 5600)
    """
    per_channel = 1 + sum(RESULT_MAPS[name].per_channel for name in maps)
    per_pixel = 1 + len(maps) - per_channel
    return np.dtype(np.float32).itemsize * (per_channel * prod(shape) + per_pixel * prod(shape[:3]))


@dataclass(frozen=True, slots=True)
class Contributor:
    """A training patch and its share of the posterior weight at one pixel."""

    image: int
    """Number of the training image, in the order of the index, from 0."""
    source: str
    """Origin of that image: a file name, or a number in an array."""
    row: int
    """Row of the patch's centre in the training image."""
    column: int
    """Column of the patch's centre in the training image."""
    weight: float
    """Share of the posterior weight, in [0, 1]."""
    value: tuple[float, ...]
    """The clean centre pixel of the patch, in the range of y, length C."""
    symmetry: str
    """The symmetric copy of the training image from which the patch was taken, for example "rotate-90";
    "identity" is the image itself."""
    crop: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """The clean patch, of side p, with `context` pixels on each side, in the range of y, float32,
    (p + 2 context, p + 2 context, C), from that copy; beyond its border the image is continued as the index
    says. None if no context was asked for."""

    def scaled(self, white_level: float, black_level: float = 0.0) -> "Contributor":
        """Return a contributor in intensities, rescaled as `Result.scaled`."""
        span = white_level - black_level
        value = tuple(value * span + black_level for value in self.value)
        crop = None if self.crop is None else self.crop * np.float32(span) + np.float32(black_level)
        return replace(self, value=value, crop=crop)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The contributors with the largest weights at one pixel."""

    contributors: tuple[Contributor, ...]
    """Heaviest first."""
    diagnostics: Diagnostics
    """How the contributors were computed."""


@dataclass(frozen=True, slots=True)
class NoiseEstimate:
    """The noise of an image, estimated from it."""

    sigma: tuple[float, ...]
    """Standard deviation, in intensities of [0, 1]: one number, or one for each channel if they differ. Of
    Poisson-Gaussian noise it is that in the dark."""
    sigma_error: tuple[float, ...]
    """Standard error of each number of `sigma`; 0 if it was stated."""
    gain: float | None = None
    """Gain of Poisson-Gaussian noise, in intensities of [0, 1]; None for white noise."""
    gain_error: float | None = None
    """Standard error of the gain; 0 if it was stated."""


def with_estimate(diagnostics: Diagnostics, estimate: NoiseEstimate | None) -> Diagnostics:
    """Return the diagnostics with the estimate of the noise, if there is one."""
    if estimate is None:
        return diagnostics
    return replace(diagnostics, sigma=estimate.sigma, sigma_error=estimate.sigma_error, gain=estimate.gain)


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """The description of an index."""

    name: str
    """Name of the index, unique within a server."""
    version: str
    """Version of the index under that name."""
    digest: str
    """SHA-256 of the training images, in hexadecimal."""
    physics: str
    """The forward operator of the index, which maps a clean image to a measurement without noise."""
    pre_inverse: str
    """The pre-inverse of the index. The estimator applies it; y is passed as measured."""
    noise: str
    """The noise that the index was built for: "white", or "correlated", of a spectrum that it contains."""
    patch_size: int
    """Side of the patches, in pixels."""
    patch_depth: int
    """Planes of the patches; 1 for an index of images, more for one of volumes."""
    boundary: str
    """How positions outside an image are read."""
    equivariance: str
    """Equivariance of the estimator in addition to translations: "none", or "offset" for a constant added to
    a channel."""
    augment: str
    """Symmetric copies that were added to the training images: "none", or "dihedral"."""
    channels: int
    """Number of channels of the training images, C."""
    images: int
    """Training images."""
    keys: int
    """Number of translated training patches, M."""
    distinct: int
    """Number of distinct keys, U."""
    cells: int
    """Number of cells into which the keys are divided."""
    image_height: int
    """Height of the training images, in pixels; 0 if their sizes differ."""
    image_width: int
    """Width of the training images, in pixels; 0 if their sizes differ."""
