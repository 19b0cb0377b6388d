"""The noise of a measurement where it was not stated, or depends on the image."""

import time
from dataclasses import replace

from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.contract.results import NoiseEstimate
from lemmse.estimator.answers.answer import answer
from lemmse.estimator.answers.request import Known
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.image_noise import estimate_gain, estimate_noise
from lemmse.estimator.image_queries import require_map
from lemmse.estimator.observation import observe
from lemmse.estimator.refinement import splits
from lemmse.estimator.signal_noise import settle

__all__ = ["estimate_of", "with_known_noise"]


def estimate_of(backend: Backend, measurement: Measurement, cancelled: Cancel) -> NoiseEstimate:
    """Return the noise in a measurement: σ of white noise, or what is not stated of its gain and σ."""
    observation = observe(backend.index, replace(measurement, sigma=1.0, gain=None), cancelled)
    if measurement.gain is None:
        return estimate_noise(backend, observation, cancelled)
    require_map(backend, "noise")
    gain, sigma = (
        value if isinstance(value, float) else None for value in (measurement.gain, measurement.sigma)
    )
    return estimate_gain(backend, observation, gain, sigma, cancelled)


def with_known_noise(
    backend: Backend, measurement: Measurement, options: Options, cancelled: Cancel
) -> Known:
    """Return a measurement with the noise that is estimated, or that it has at its own reconstruction.

    Parameters
    ----------
    backend : Backend
        The keys.
    measurement : Measurement
        The measurement.
    options : Options
        The options of that reconstruction.
    cancelled : callable
        Polled between tiles of work.
    """
    start, estimate = time.perf_counter(), None
    if measurement.is_estimated:
        estimate = estimate_of(backend, measurement, cancelled)
        measurement = measurement.with_noise(estimate)
    if measurement.gain is not None:
        require_map(backend, "noise")
        # Gaussians take most of the time of noise maps, and change the means of patches hardly at all.
        plain = replace(options, maps=frozenset(), gaussian_share=0.0)
        mean = measurement.with_mean_noise().sigma
        if isinstance(mean, float) and splits(backend.index, mean, plain):
            plain = replace(plain, aggregate="overlap")
        measurement = settle(
            measurement,
            backend.index.manifest,
            lambda one: answer(backend, Known(one), plain, cancelled).image,
        )
    return Known(measurement, estimate, start)
