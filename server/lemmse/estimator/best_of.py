"""The choice among indexes for one image: by calibration where it can tell, otherwise by the image itself.

Calibration compares indexes of the same images at a known σ. Among indexes of different images, the one is
taken under whose prior a sample of the noisy patches has the greatest density. If patches differ in size, so
that densities cannot be compared, it is the one whose answer has the least error to expect (see `score`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.contract.results import NoiseEstimate, Result, with_estimate
from lemmse.contract.tensors import FloatArray
from lemmse.estimator.cancellation import Cancel, never
from lemmse.estimator.image_noise import sample_size
from lemmse.estimator.noise_estimate import spread
from lemmse.estimator.reconstructor import Reconstructor

__all__ = ["BestOf"]


class BestOf:
    """Calibrated indexes of one inverse problem, each image of which is answered by the best for it.

    Parameters
    ----------
    reconstructors : sequence of Reconstructor
        The indexes, at least one.
    """

    def __init__(self, reconstructors: Sequence[Reconstructor]) -> None:
        self._reconstructors = reconstructors

    @property
    def name(self) -> str:
        """The names of the indexes."""
        return ",".join(one.name for one in self._reconstructors)

    def answer(self, measurement: Measurement, options: Options, cancelled: Cancel = never) -> Result:
        """Return the reconstruction by the best index; as `Reconstructor.answer`."""
        _require_no_exclusion(options)
        measurement, estimate = self._with_noise(measurement, cancelled)
        result = self._choose(measurement, options, cancelled).answer(measurement, options, cancelled)
        return replace(result, diagnostics=with_estimate(result.diagnostics, estimate))

    def differentiate(
        self, measurement: Measurement, vector: FloatArray, options: Options, cancelled: Cancel = never
    ) -> NDArray[np.float32]:
        """Return a vector times the derivative of the reconstruction by the best index, held fixed."""
        _require_no_exclusion(options)
        measurement, _ = self._with_noise(measurement, cancelled)
        best = self._choose(measurement, options, cancelled)
        return best.differentiate(measurement, vector, options, cancelled)

    def work(self, measurement: Measurement, options: Options) -> float:
        """Return the expected work of `answer`, in multiply-adds of the exact sum."""
        _require_no_exclusion(options)
        return self._with_choice(
            measurement, [one.work(measurement, options) for one in self._reconstructors]
        )

    def derivative_work(self, measurement: Measurement, options: Options) -> float:
        """Return the expected work of `differentiate`, in multiply-adds of the exact sum."""
        _require_no_exclusion(options)
        work = [one.derivative_work(measurement, options) for one in self._reconstructors]
        return self._with_choice(measurement, work)

    def pixels(self, measurement: Measurement) -> int:
        """Return the number of pixels of a measurement; in volumes, those of all planes."""
        return self._reconstructors[0].pixels(measurement)

    def _with_choice(self, measurement: Measurement, work: Sequence[float]) -> float:
        """Return the work of one of the indexes, given that of each, and of all for a sample of pixels."""
        pixels = self.pixels(measurement)
        return max(work) + sum(work) * sample_size(pixels) / pixels

    def _with_noise(
        self, measurement: Measurement, cancelled: Cancel
    ) -> tuple[Measurement, NoiseEstimate | None]:
        """Return a measurement whose noise is known, and the estimate of it; None if it was stated."""
        if not measurement.is_estimated:
            return measurement, None
        estimate = self._estimate(measurement, cancelled)
        return measurement.with_noise(estimate), estimate

    def _estimate(self, measurement: Measurement, cancelled: Cancel) -> NoiseEstimate:
        """Return the least of the estimates: what an index does not describe looks like noise to it."""
        able = [one for one in self._reconstructors if measurement.gain is None or one.takes_maps]
        estimates = [one.estimate_noise(measurement, cancelled) for one in able or self._reconstructors]
        mean = float(measurement.observed.mean())
        return min(estimates, key=lambda one: _mean_square(one) + (one.gain or 0.0) * mean)

    def _choose(self, measurement: Measurement, options: Options, cancelled: Cancel) -> Reconstructor:
        if measurement.gain is not None:  # a map of one σ: only indexes that take maps can answer
            white = measurement.with_mean_noise()
            measurement = replace(white, sigma=np.full(measurement.y.shape, white.sigma))
        groups: dict[str, list[Reconstructor]] = {}
        for one in self._reconstructors:
            groups.setdefault(one.index.manifest.digest, []).append(one)
        best = [max(group, key=lambda one: one.expected_db(measurement)) for group in groups.values()]
        able = [one for one in best if one.expected_db(measurement) > -math.inf]
        best = able or best
        if len(best) == 1:
            return best[0]
        n = self._sample(measurement)
        fits = {one.name: one.fit(measurement, options, n, cancelled) for one in best}
        if len({_kind_of_patches(one) for one in best}) == 1:
            return max(best, key=lambda one: fits[one.name].log_density)
        return min(best, key=lambda one: fits[one.name].error)

    def _sample(self, measurement: Measurement) -> NDArray[np.int64]:
        """Return positions of pixels spread over the image, observed if possible, (N,)."""
        pixels, mask = self.pixels(measurement), measurement.mask
        shape = measurement.y.shape[: 2 if math.prod(measurement.y.shape[:2]) == pixels else 3]
        shape = (1, 1, *shape)[-3:]
        bad = np.zeros((*shape, 1), np.bool_) if mask is None else ~mask.reshape(*shape, -1)
        centres, _ = spread(bad, (1, 1, 1), sample_size(pixels))
        n: NDArray[np.int64] = np.ravel_multi_index(tuple(centres.T), shape)
        return n


def _kind_of_patches(one: Reconstructor) -> tuple[int, int, str]:
    """Return what makes the densities of patches comparable: that they are of the same numbers."""
    manifest = one.index.manifest
    return manifest.patch_size, manifest.patch_depth, manifest.equivariance


def _require_no_exclusion(options: Options) -> None:
    if options.exclude:
        raise InvalidArgument.of("exclude", "expected none without the name of an index, got some; say which")


def _mean_square(estimate: NoiseEstimate) -> float:
    return float(np.square(estimate.sigma).mean())
