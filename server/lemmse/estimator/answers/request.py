"""A request to an index: a measurement whose noise is known, and what the options mean for the index."""

import time
from dataclasses import dataclass, field

from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.contract.results import NoiseEstimate
from lemmse.estimator.cancellation import Cancel, never
from lemmse.estimator.observation import Observation, observe
from lemmse.estimator.refinement import resolve_refinement
from lemmse.index import Index
from lemmse.index.storage.picture_record import Refinement

__all__ = ["Known", "Request"]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A measurement whose noise is known."""

    measurement: Measurement
    """The measurement, of Gaussian noise."""
    estimate: NoiseEstimate | None = None
    """The estimate of its noise; None if it was stated."""
    start: float = field(default_factory=time.perf_counter)
    """When its answer was begun, by `time.perf_counter`."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A measurement whose noise is known, with what its options mean for an index."""

    known: Known
    """The measurement."""
    options: Options
    """The options."""
    observation: Observation
    """The measurement as the index takes it."""
    refinement: Refinement
    """The prior and the aggregate."""

    @classmethod
    def of(
        cls, index: Index, known: Known, options: Options, cancelled: Cancel = never, *, once: bool = False
    ) -> "Request":
        """Return the request of a measurement; `once` is that of `resolve_refinement`.

        Raises
        ------
        InvalidArgument
            The measurement or an option does not fit the index.
        Cancelled
            `cancelled()` was true.
        """
        observation = observe(index, known.measurement, cancelled)
        refinement = resolve_refinement(index, observation.rms_sigma, options, once=once)
        return cls(known, options, observation, refinement)
