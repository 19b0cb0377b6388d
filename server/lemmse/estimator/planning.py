"""The plan of the sums of a request: what is summed, in which mode and, with hybrid, how far.

The prior and the aggregate are determined before, see `refinement`.
"""

from dataclasses import asdict, dataclass, replace

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.options import Options
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.image_queries import ImageQueries
from lemmse.estimator.modes import choose_mode
from lemmse.estimator.sampled_calibration import calibrate_on_sample
from lemmse.estimator.sum_spec import DEFAULT_K, DEFAULT_NPROBE, SumSpec
from lemmse.estimator.sums import HEAVIEST, Outputs
from lemmse.index import Index
from lemmse.index.storage.calibration_record import Calibration, OperatingPoint
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = [
    "Goal",
    "SumPlan",
    "is_scored",
    "maps_to_sum",
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
    cancelled: Cancel,
) -> SumPlan:
    """Return the plan for the posteriors of LE-MMSE.

    Parameters
    ----------
    backend : Backend
        The keys.
    queries : ImageQueries
        The query patches.
    options, refinement
        The validated options, and the refinement that they resolve to.
    cancelled : callable
        Polled between tiles of work.
    """
    index, sigma, accuracy_db = backend.index, queries.sigma, requested_accuracy(options)
    outputs = _outputs(index, options, refinement)
    # Calibrations are of the compiled loops.
    calibration = index.manifest.calibration if sigma is not None and backend.compiled_hybrid else None
    point = None if calibration is None or sigma is None else calibration.plan(sigma, accuracy_db)
    mode = choose_mode(backend, queries, options, outputs, accuracy_db, point)
    spec = SumSpec(
        mode,
        k=options.k or DEFAULT_K,
        nprobe=options.nprobe or DEFAULT_NPROBE,
        threshold=_threshold(point, sigma, accuracy_db),
        budget=options.budget,
        outputs=outputs,
        cancelled=cancelled,
    )
    if mode != "hybrid":
        return SumPlan(spec)
    nearest = None
    if outputs.top:  # the groups that are opened are those that matter to the mean, not the nearest
        nearest = SumSpec("topk", k=1, nprobe=spec.nprobe, outputs=HEAVIEST, cancelled=cancelled)
    variance = outputs.variance or options.certified
    spec = replace(spec, outputs=replace(outputs, top=0, error=True, variance=variance))
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
        certify_db=accuracy_db if options.certified else None,
    )


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


def maps_to_sum(index: Index, options: Options, refinement: Refinement) -> frozenset[str]:
    """Return the names of the maps to compute: those requested, and the variance for the error to expect."""
    return options.maps | {"variance"} if is_scored(index, options, refinement) else options.maps


def _outputs(index: Index, options: Options, refinement: Refinement) -> Outputs:
    maps = maps_to_sum(index, options, refinement)
    return Outputs(
        variance="variance" in maps,
        ess="ess" in maps,
        top=1 * ("source" in maps),
        error="error" in maps,
        patch=refinement.aggregate != "centre",
    )
