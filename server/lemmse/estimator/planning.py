"""The plan of the sums of a request: the mode, and what is summed.

`plan_sums` determines the mode, the threshold of hybrid and the expected agreement from the options and the
calibration. What the posterior is of is determined before, see `refinement`.
"""

import math
from dataclasses import asdict, dataclass, replace

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.options import Options
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.image_queries import ImageQueries
from lemmse.estimator.rate_measurement import measure_times
from lemmse.estimator.rates import LEAST_PIXELS
from lemmse.estimator.sampled_calibration import calibrate_on_sample
from lemmse.estimator.sum_spec import DEFAULT_K, DEFAULT_NPROBE, SumSpec
from lemmse.estimator.sums import HEAVIEST, Outputs
from lemmse.index import Index
from lemmse.index.storage.calibration_record import Calibration, OperatingPoint
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = [
    "Goal",
    "SumPlan",
    "is_cheap",
    "is_scored",
    "plan_sums",
    "plan_whole_images",
    "requested_accuracy",
]

_DEFAULT_ACCURACY_DB = 50.0
"""Default agreement of hybrid with the sum over all keys, PSNR in dB."""

_UNCALIBRATED = 2.0, -1 / 7
"""Threshold at 0 dB, and its slope per dB, if no calibration applies; low, to err on the side of accuracy."""
_UNCALIBRATED_WEIGHTED = -1.0, -1 / 5
"""The same for a mask or a noise map, for which the summary statistics of a group are less informative, and
groups are not searched for single decisive keys."""
_FEW = 10
"""Mode topk sums fewer than one in so many of the keys of a stratum; otherwise the exact sum is faster."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The agreement of an image that hybrid is to reach, and what relates its estimated errors to it."""

    accuracy_db: float
    """Requested agreement with the sum over all keys, PSNR in dB."""
    sigma: float
    """Noise standard deviation σ."""
    calibration: Calibration
    """The calibration of the index."""


@dataclass(frozen=True, slots=True)
class SumPlan:
    """The plan for the posteriors of an image."""

    spec: SumSpec
    """Specification of the sums; its mode is exact, topk or hybrid."""
    t_length: int = 1
    """Length of the targets, T."""
    goal: Goal | None = None
    """What hybrid is to reach; None if it is not calibrated for the request, or has a budget."""
    expected_accuracy_db: float | None = None
    """Expected agreement with the sum over all keys, PSNR in dB; None if unknown or exact."""
    nearest: SumSpec | None = None
    """Specification of the search for the heaviest key of each query, if it is wanted and `spec` has none."""
    certify_db: float | None = None
    """Agreement to certify by bounds on the error, PSNR in dB; None for no bounds."""


def requested_accuracy(options: Options) -> float:
    """Return the agreement with the sum over all keys that hybrid aims for, PSNR in dB."""
    return options.accuracy_db or _DEFAULT_ACCURACY_DB


def plan_sums(
    backend: Backend,
    queries: ImageQueries,
    options: Options,
    refinement: Refinement,
    exact_work: float,
    cancelled: Cancel,
) -> SumPlan:
    """Return the plan for the posteriors of LE-MMSE; docs/mathematics.md describes how mode auto chooses.

    Parameters
    ----------
    backend : Backend
        The keys.
    queries : ImageQueries
        The query patches.
    options, refinement
        The validated options, and the refinement that they resolve to.
    exact_work : float
        Largest number of multiply-adds for which mode auto chooses exact.
    cancelled : callable
        Polled between tiles of work.
    """
    index, sigma, accuracy_db = backend.index, queries.sigma, requested_accuracy(options)
    outputs = _outputs(index, options, refinement)
    # Calibrations are of the compiled loops.
    calibration = index.manifest.calibration if sigma is not None and backend.compiled_hybrid else None
    point = None if calibration is None or sigma is None else calibration.plan(sigma, accuracy_db)
    mode = options.mode
    if mode == "auto":
        cheap = is_cheap(backend, queries.pixels, queries.work * index.patch_length, exact_work)
        futile = point is not None and (point.accuracy_db < accuracy_db or point.cost >= 1)
        mode = "exact" if cheap or futile else "hybrid"
    k = options.k or DEFAULT_K
    if mode == "topk" and backend.searches and k * _FEW >= max(backend.extent.counts):
        mode = "exact"
    asked = replace(outputs, bounds=options.certified)
    if mode == "hybrid" and not backend.hybrid_computes(asked, white=sigma is not None):
        mode = "exact"
    if mode == "hybrid" and options.budget is not None and not backend.compiled_hybrid:
        mode = "exact"  # the kernels of a GPU sum whole groups of keys, whatever the budget
    if mode == "hybrid" and options.mode == "auto" and not backend.compiled_hybrid:
        mode = "hybrid" if _hybrid_is_faster(backend, queries, outputs, accuracy_db) else "exact"
    certify = mode == "hybrid" and options.certified
    nprobe = options.nprobe or DEFAULT_NPROBE
    nearest = None
    if mode == "hybrid" and outputs.top:  # which opens the groups that matter to the mean, not the nearest
        nearest = SumSpec("topk", k=1, nprobe=nprobe, outputs=HEAVIEST, cancelled=cancelled)
        outputs = replace(outputs, top=0)
    spec = SumSpec(
        mode,
        k=k,
        nprobe=nprobe,
        threshold=_threshold(point, sigma, accuracy_db),
        budget=options.budget,
        outputs=replace(
            outputs, variance=outputs.variance or certify, error=outputs.error or mode == "hybrid"
        ),
        cancelled=cancelled,
    )
    if mode != "hybrid":
        return SumPlan(spec)
    if not backend.compiled_hybrid and sigma is not None:
        calibration = calibrate_on_sample(queries, spec, index, sigma, accuracy_db)
        point = calibration.plan(sigma, accuracy_db)
        spec = replace(spec, threshold=point.threshold)
    goal = None
    if calibration is not None and sigma is not None and options.budget is None:
        goal = Goal(accuracy_db, sigma, calibration)
    return SumPlan(
        spec,
        t_length=index.manifest.channels,
        goal=goal,
        expected_accuracy_db=None if point is None else point.accuracy_db,
        nearest=nearest,
        certify_db=accuracy_db if certify else None,
    )


def is_cheap(backend: Backend, pixels: int, work: float, exact_work: float) -> bool:
    """Return whether mode auto is exact for so many pixels, whatever was calibrated and measured.

    Parameters
    ----------
    backend : Backend
        The keys.
    pixels : int
        Number of pixels.
    work : float
        Multiply-adds of the exact sum.
    exact_work : float
        Largest number of multiply-adds for which auto is exact on a CPU.
    """
    return work <= exact_work if backend.compiled_hybrid else pixels < LEAST_PIXELS


def _hybrid_is_faster(backend: Backend, queries: ImageQueries, outputs: Outputs, accuracy_db: float) -> bool:
    """Return whether hybrid is expected to be faster on a GPU, by measured times of images alike."""
    if queries.sigma is None or not queries.work:
        return False
    alike = round(2 * math.log2(queries.sigma)), accuracy_db, outputs, queries.gaussian_share > 0
    if alike not in backend.times:
        spec = SumSpec("hybrid", outputs=replace(outputs, error=True))
        times = measure_times(queries, spec, backend.index, queries.sigma, accuracy_db)
        backend.times[alike] = times
    return backend.times[alike].favour_hybrid(queries.pixels)


def _threshold(point: OperatingPoint | None, sigma: float | None, accuracy_db: float) -> float:
    if point is not None:
        return point.threshold
    at_0_db, per_db = _UNCALIBRATED_WEIGHTED if sigma is None else _UNCALIBRATED
    return at_0_db + per_db * accuracy_db


def plan_whole_images(index: Index, options: Options, refinement: Refinement, cancelled: Cancel) -> SumPlan:
    """Return the plan for the posterior of MMSE or E-MMSE, which is summed over all whole images.

    Raises
    ------
    InvalidArgument
        A refinement, or a mode other than auto and exact, is requested; or the noise is not white.
    """
    estimator, mode = options.estimator, options.mode
    if index.problem.spectrum is not None:
        raise InvalidArgument.of(
            "estimator", f"expected le-mmse for an index of correlated noise, got {estimator}"
        )
    for argument, value in asdict(refinement).items():
        if value != getattr(PAPER, argument):
            raise InvalidArgument.of(argument, f"expected none for {estimator}, which has no patches")
    if mode in ("topk", "hybrid"):
        raise InvalidArgument.of("mode", f"expected auto or exact for {estimator}, got {mode}")
    return SumPlan(SumSpec(outputs=_outputs(index, options, refinement), cancelled=cancelled))


def is_scored(index: Index, options: Options, refinement: Refinement) -> bool:
    """Return whether the error to expect is estimated: where the variance, which it takes, costs little."""
    cheap = options.estimator == "le-mmse" and refinement.aggregate == "centre"
    return index.problem.denoises and (cheap or "variance" in options.maps)


def _outputs(index: Index, options: Options, refinement: Refinement) -> Outputs:
    return Outputs(
        variance="variance" in options.maps or is_scored(index, options, refinement),
        ess="ess" in options.maps,
        top=1 * ("source" in options.maps),
        error="error" in options.maps,
        patch=refinement.aggregate != "centre",
    )
