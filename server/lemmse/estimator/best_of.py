"""The choice among indexes for one image: by calibration where it can tell, otherwise by the image itself.

Calibration compares indexes of the same images at a known σ. Among indexes of different images, the one is
taken whose reconstruction of a sample of the pixels has the least error to expect (see `score`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.contract.results import NoiseEstimate, Result
from lemmse.estimator.cancellation import Cancel, never
from lemmse.estimator.image_noise import sample_size
from lemmse.estimator.noise_estimate import spread
from lemmse.estimator.reconstructor import Reconstructor, with_estimate

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
        estimate = None
        if measurement.is_estimated:
            estimate = self._estimate(measurement, cancelled)
            measurement = measurement.with_noise(estimate)
        white = measurement if measurement.gain is None else measurement.with_mean_noise()
        result = self._choose(white, options, cancelled).answer(measurement, options, cancelled)
        return replace(result, diagnostics=with_estimate(result.diagnostics, estimate))

    def work(self, measurement: Measurement, options: Options) -> float:
        """Return the expected work of `answer`, in multiply-adds of the exact sum."""
        height, width = measurement.y.shape[:2]
        work = [one.work(measurement, options) for one in self._reconstructors]
        return max(work) + sum(work) * sample_size(height * width) / float(height * width)

    def _estimate(self, measurement: Measurement, cancelled: Cancel) -> NoiseEstimate:
        """Return the least of the estimates: what an index does not describe looks like noise to it."""
        estimates = [one.estimate_noise(measurement, cancelled) for one in self._reconstructors]
        mean = float(np.nanmean(measurement.y))
        return min(estimates, key=lambda one: _mean_square(one) + (one.gain or 0.0) * mean)

    def _choose(self, measurement: Measurement, options: Options, cancelled: Cancel) -> Reconstructor:
        groups: dict[str, list[Reconstructor]] = {}
        for one in self._reconstructors:
            groups.setdefault(one.index.manifest.digest, []).append(one)
        best = [max(group, key=lambda one: one.expected_db(measurement)) for group in groups.values()]
        able = [one for one in best if one.expected_db(measurement) > -math.inf]
        best = able or best
        if len(best) == 1:
            return best[0]
        n = self._sample(measurement)
        return min(best, key=lambda one: one.expected_error(measurement, options, n, cancelled))

    def _sample(self, measurement: Measurement) -> NDArray[np.int64]:
        """Return positions of pixels spread over the image, observed if possible, (N,)."""
        height, width = measurement.y.shape[:2]
        mask = measurement.mask
        bad = np.zeros((height, width, 1), np.bool_) if mask is None else ~mask.reshape(height, width, -1)
        centres, _ = spread(bad, 1, sample_size(height * width))
        n: NDArray[np.int64] = centres[:, 0] * width + centres[:, 1]
        return n


def _mean_square(estimate: NoiseEstimate) -> float:
    return float(np.square(estimate.sigma).mean())
