"""The noise of an image, estimated under the mixture of Gaussians of an index.

The mixture describes images that the training images do not contain as well as those that they do. Under the
training patches themselves, whatever they do not contain would count as noise; and they are many more. The
Gaussians have tails, so that an image with more detail is not noisier (see `Gaussians.log_density`).
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.results import NoiseEstimate
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel, raise_if_cancelled
from lemmse.estimator.gain_estimate import SIGMAS, PatchDensities, most_likely_gain
from lemmse.estimator.image_queries import require_map
from lemmse.estimator.noise_estimate import NoiseLevel, maximum_likelihood, median_sigma, spread
from lemmse.estimator.observation import Observation
from lemmse.estimator.queries import Queries
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs

__all__ = ["estimate_gain", "estimate_noise", "sample_size"]

_SHARE, _LEAST_SAMPLE, _LARGEST_SAMPLE = 1 / 4, 32, 512
"""Number of patches in the sample: its share of the pixels, and its bounds."""
_MASKED_SAMPLE = 32
"""Largest number of patches if pixels of them were not observed: each has covariances of its own."""
_START = 0.1
"""σ to begin with where the image does not tell."""
_CHANNELS_DIFFER = 1.25
"""Ratio of the largest to the least σ of a channel from which they differ."""
_CLIPPED = 0.01
"""Share of the numbers that are exactly 0 or 1 above which an image was clipped."""
_AWAY = 2.0
"""Distance of the means of a patch from 0 and 1, in units of σ, at which clipping hardly matters."""
_LEAST_INSIDE = 1 / 8
"""Share of the patches that are taken at least."""
_SIGNIFICANT = 3.0
"""Standard errors by which the log density must gain for a σ for each channel."""


def sample_size(pixels: int) -> int:
    """Return about how many patches an estimate takes for an image with so many pixels."""
    return min(_LARGEST_SAMPLE, max(_LEAST_SAMPLE, round(pixels * _SHARE)))


def estimate_noise(backend: Backend, observation: Observation, cancelled: Cancel) -> NoiseEstimate:
    """Return the standard deviation of the white noise in an observation.

    Parameters
    ----------
    backend : Backend
        The index.
    observation : Observation
        The measurement; of its sigma only which pixels were observed is used.
    cancelled : callable
        Polled between pieces of work.

    Raises
    ------
    InvalidArgument
        The index, or the image, does not allow an estimate.
    Cancelled
        `cancelled()` was true.
    """
    _require_mixture(backend, "sigma")
    sample, index = _Sample(backend, observation, cancelled), backend.index
    best = sample.best(np.array([sample.start]))
    if index.problem.white and index.strata.constants is None and _may_differ(sample.medians):
        each = sample.best(_channel_starts(sample.medians, float(best.sigma[0])))
        gain = sample.log_density(each.sigma, slice(None)) - sample.log_density(best.sigma, slice(None))
        differ = each.sigma.max() > _CHANNELS_DIFFER * each.sigma.min()
        if differ and gain.mean() > _SIGNIFICANT * gain.std() / math.sqrt(len(gain)):
            best = each
    return NoiseEstimate(tuple(best.sigma.tolist()), tuple(best.error.tolist()))


def estimate_gain(
    backend: Backend,
    observation: Observation,
    gain: float | None,
    sigma: float | None,
    cancelled: Cancel,
) -> NoiseEstimate:
    """Return the gain and the dark standard deviation of the Poisson-Gaussian noise in an observation.

    Parameters
    ----------
    backend, observation, cancelled
        As in `estimate_noise`.
    gain, sigma : float or None
        What is known.

    Raises
    ------
    InvalidArgument
        The index, or the image, does not allow an estimate.
    Cancelled
        `cancelled()` was true.
    """
    _require_mixture(backend, "sigma" if sigma is None else "gain")
    sample = _Sample(backend, observation, cancelled, counts=True)
    white = sample.best(np.array([sample.start])).sigma
    table = np.stack([sample.log_density(SIGMAS[k : k + 1], slice(None)) for k in range(len(SIGMAS))], axis=1)
    return most_likely_gain(
        PatchDensities(table),
        sample.clean_means(white),
        sample.centres,
        sample.sides,
        float(white[0]),
        gain=gain,
        sigma=sigma,
    )


class _Sample:
    """Patches of an observation, and their log density for any σ."""

    def __init__(
        self, backend: Backend, observation: Observation, cancelled: Cancel, *, counts: bool = False
    ) -> None:
        self._backend, self._cancelled = backend, cancelled
        y, manifest = observation.y, backend.index.manifest
        observed = np.broadcast_to(np.isfinite(observation.sigma), y.shape)
        self.sides = manifest.patch_depth, manifest.patch_size, manifest.patch_size
        """Planes, rows and columns of the patches."""
        self.medians = median_sigma(y, observed)
        """Median estimate for each channel, (C,), NaN where there is none."""
        self.start = float(np.median(self.medians)) if np.isfinite(self.medians).all() else _START
        """σ to begin with."""
        centres, missing = _spread(observed, self.sides, sample_size(observation.pixels))
        if missing.any():
            require_map(backend, "mask")
            centres, missing = _spread(observed, self.sides, _MASKED_SAMPLE)
        n = np.ravel_multi_index(tuple(centres.T), y.shape[:3])
        u = backend.patches(y, n)
        inside = None
        if counts:
            inside = _with_counts(u, y[observed].min())
        elif np.isin(y, (0, 1))[observed].mean() > _CLIPPED:
            inside = _inside(u.reshape(len(u), -1, y.shape[3]), self.start)
        if inside is not None:
            centres, n, u, missing = centres[inside], n[inside], u[inside], missing[inside]
        self.centres, self._u = centres, u
        """Plane, row and column of each patch, (N, 3)."""
        self._observed = backend.patches(observed, n) if missing.any() else None
        white = backend.whitening.whiten(torch.from_numpy(u).to(backend.device), 0)
        self._spectra = None if missing.any() else backend.gaussians.spectra(white)

    def best(self, start: NDArray[np.float64]) -> NoiseLevel:
        """Return the most likely σ, one or for each channel, as many as there are to begin with."""
        return maximum_likelihood(self.log_density, start, self.centres, self.sides)

    def log_density(self, sigma: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
        """Return the log densities of some of the patches, see `noise_estimate.LogDensity`."""
        raise_if_cancelled(self._cancelled)
        if len(sigma) == 1 and self._spectra is not None:
            return self._spectra.log_density(float(sigma[0]), rows).cpu().numpy()
        return self._backend.gaussians.log_density(self._queries(sigma, rows), self._cancelled).cpu().numpy()

    def clean_means(self, sigma: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean intensity of each clean patch that is expected for noise of σ, (N,)."""
        spec = SumSpec(outputs=Outputs(patch=True), cancelled=self._cancelled)
        sums = self._backend.gaussians.sums(self._queries(sigma, slice(None)), spec)
        patch = sums.posterior(self._backend.index.manifest.channels).patch
        return patch.mean(dim=1).cpu().numpy()

    def _queries(self, sigma: NDArray[np.float64], rows: slice) -> Queries:
        device, u = self._backend.device, self._u[rows]
        precision = np.tile(sigma**-2.0, (len(u), u.shape[1] // len(sigma)))
        if self._observed is not None:
            precision = np.where(self._observed[rows], precision, 0.0)
        return Queries(torch.from_numpy(u).to(device), torch.from_numpy(precision).to(device))


def _spread(
    observed: NDArray[np.bool_], sides: tuple[int, int, int], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the patches to look at, and how many numbers of each were not observed."""
    first = 0 if sides[0] > 1 else 1
    patch, image = ("x".join(map(str, one[first:3])) for one in (sides, observed.shape))
    if np.less(observed.shape[:3], sides).any():
        what = "an image" if first else "a volume"
        raise InvalidArgument.of(
            "sigma", f"expected a number for {what} smaller than a patch, {patch}, got auto for {image}"
        )
    centres, missing = spread(~observed, sides, count)
    if not len(centres):
        raise InvalidArgument.of(
            "sigma", f"expected a number where nowhere half of {patch} pixels were observed, got auto"
        )
    return centres, missing


def _inside(u: NDArray[np.float64], sigma: float) -> NDArray[np.bool_]:
    """Return which patches, (N, p², C), clipping to [0, 1] hardly affects, (N,).

    It is those whose means in all channels are away from 0 and 1; if these are few, the nearest to ½.
    """
    distance = np.abs(u.mean(axis=1) - 0.5).max(axis=1)
    inside: NDArray[np.bool_] = distance <= 0.5 - _AWAY * sigma
    if inside.mean() < _LEAST_INSIDE:
        inside = distance <= np.quantile(distance, _LEAST_INSIDE)
    return inside


def _with_counts(u: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Return which patches, (N, P), are not mostly of the least number of the image, that of no counts.

    These show no noise. If all are such patches, all are taken.
    """
    some: NDArray[np.bool_] = (u == least).mean(axis=1) <= 0.5
    return some if some.any() else ~some


def _require_mixture(backend: Backend, argument: str) -> None:
    problem, why = backend.index.problem, None
    if not problem.denoises:
        why = f"of {problem.summary}"
    elif backend.index.mixture is None:
        why = "without Gaussians, which one of shorter patches, or built again, may have"
    if why is not None:
        raise InvalidArgument.of(argument, f"expected a number for an index {why}, got auto")


def _may_differ(medians: NDArray[np.float64]) -> bool:
    """Return whether the medians of channels differ by more than details of the image usually make them."""
    return bool(np.isfinite(medians).all()) and float(medians.max()) > _CHANNELS_DIFFER * float(medians.min())


def _channel_starts(medians: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Return a σ for each channel to begin with, whose mean square is that of one σ for all.

    What the squares of the medians have in common beside the noise are details of the image.
    """
    squares = np.square(medians)
    details = max(0.0, float(squares.mean()) - sigma**2)
    return np.sqrt(np.maximum(squares - details, sigma**2 / 25))
