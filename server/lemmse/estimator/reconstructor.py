"""The estimator of an index: from a measurement to a reconstruction and its maps."""

import math
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lemmse.contract.errors import DataLoss, InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import (
    RESULT_MAPS,
    Contributor,
    Diagnostics,
    Explanation,
    NoiseEstimate,
    Result,
)
from lemmse.estimator.aggregate import Aggregate, Centres, Overlap
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel, never, raise_if_cancelled
from lemmse.estimator.costs import estimate_work, exact_work, request_work
from lemmse.estimator.distributed import DistributedBackend
from lemmse.estimator.image_noise import estimate_gain, estimate_noise
from lemmse.estimator.image_queries import WhitenedQueries, cut_queries, require_map
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.observation import Observation, as_observation
from lemmse.estimator.pixel_posteriors import (
    ROUNDING,
    PixelPosteriors,
    joint_posteriors,
    pixel_posteriors,
)
from lemmse.estimator.planning import (
    SumPlan,
    is_scored,
    plan_sums,
    plan_whole_images,
    requested_accuracy,
    resolve_refinement,
)
from lemmse.estimator.score import NO_SCORE, Score, expected_error, image_score, read_once
from lemmse.estimator.signal_noise import settle
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs
from lemmse.estimator.whole_images import WholeImages
from lemmse.index import Index
from lemmse.index.images.symmetries import SYMMETRIES
from lemmse.index.sources import intensities
from lemmse.index.storage.manifest import REMEDY
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["DEFAULT_EXACT_WORK", "Reconstructor", "with_estimate"]

DEFAULT_EXACT_WORK = 1e11
"""Default limit of the multiply-adds, Q·U·P, for which mode auto is exact: a few seconds on two cores."""


class Reconstructor:
    """The estimator for one index. It is thread-safe.

    Parameters
    ----------
    index : Index
        The index of the training patches. Its keys are memory-mapped on a CPU, and copied to a GPU.
    device : str
        "cpu", "cuda" or "cuda:N"; "auto" is a GPU if torch finds one, otherwise the CPU.
    exact_work : float
        Largest number of multiply-adds for which mode "auto" is exact, counted as the product of the number
        of pixels to reconstruct, the number of distinct keys U and the patch length P. Above it, the mode is
        hybrid.
    scheduler : str, optional
        Address of a Dask scheduler. Its workers each read some shards of the index, and sum over these keys
        on the CPU; this process then holds no keys. All workers must see the folder of the index under the
        same path. Mode "topk" is not available.

    Raises
    ------
    InvalidArgument
        The device does not exist, or Dask is not installed.
    NotFound
        No scheduler answers at the address.
    DataLoss
        A worker does not see the index, or finds it damaged.
    Unavailable
        There is no worker, or workers were lost repeatedly.

    Examples
    --------
    >>> import tempfile
    >>> from lemmse.index import build, open_index
    >>> folder = tempfile.TemporaryDirectory()
    >>> x = np.linspace(0, 1, 64).reshape(8, 8)
    >>> np.save(f"{folder.name}/images.npy", x[None])
    >>> lemmse = Reconstructor(open_index(build([f"{folder.name}/images.npy"], f"{folder.name}/index")))
    >>> result = lemmse.reconstruct(x, sigma=0.001, maps=["ess"])
    >>> bool(np.abs(result.image - x).max() < 1e-3), float(result.ess.max().round(3))
    (True, 1.0)
    >>> folder.cleanup()
    """

    def __init__(
        self,
        index: Index,
        *,
        device: str = "auto",
        exact_work: float = DEFAULT_EXACT_WORK,
        scheduler: str | None = None,
    ) -> None:
        self.index = index
        self.exact_work = exact_work
        self._backend = _open_backend(index, device, scheduler)
        # A reconstructor that a server has replaced is closed when the last request that uses it ends.
        self._close = weakref.finalize(self, self._backend.close)
        self._close.atexit = False

    @property
    def name(self) -> str:
        """Name of the index."""
        return self.index.name

    def close(self) -> None:
        """Release the keys that the workers of the scheduler hold, if there is one.

        It happens by itself when the reconstructor is deleted.
        """
        self._close()

    def prepare(self) -> None:
        """Load data and compile code that the first requests in hybrid and topk would otherwise wait for."""
        self._backend.prepare()

    def reconstruct(
        self,
        y: ArrayLike,
        *,
        sigma: ArrayLike,
        mask: ArrayLike | None = None,
        cancelled: Cancel = never,
        **options: Any,
    ) -> Result:
        """Return the reconstruction of an image of any size: the posterior mean at every pixel.

        Parameters
        ----------
        y, sigma, mask
            As in `lemmse.contract.measurement.Measurement.checked`.
        cancelled : callable
            Polled between tiles of work; when it returns True, the call raises Cancelled.
        **options
            The options, as in `lemmse.contract.options.Options`.

        Raises
        ------
        InvalidArgument
            An argument has the wrong type, shape or value, or does not fit the index.
        Cancelled
            `cancelled()` was true.
        DataLoss
            A file of the index was changed while the index was open.

        References
        ----------
        arXiv 2601.10334, the MMSE, E-MMSE and LE-MMSE estimators.
        """
        return self.answer(Measurement.checked(y, sigma=sigma, mask=mask), Options(**options), cancelled)

    def answer(self, measurement: Measurement, options: Options, cancelled: Cancel = never) -> Result:
        """Return the reconstruction of a measurement, in the range of its image; see `reconstruct`."""
        with self._unchanged():
            return self._answer(measurement, options, cancelled)

    def _answer(self, measurement: Measurement, options: Options, cancelled: Cancel) -> Result:
        start = time.perf_counter()
        measurement, estimate = self._with_noise(measurement, options, cancelled)
        observation = self._observe(measurement)
        refinement = resolve_refinement(self.index, observation, options)
        if options.estimator == "le-mmse":
            queries = cut_queries(self._backend, observation, refinement)
            image = self._aggregate(observation, options, refinement)
            plan = plan_sums(self._backend, queries, options, refinement, self.exact_work, cancelled)
            height, width, _ = observation.y.shape
            posteriors = pixel_posteriors(self._backend, queries, plan, height * width)
        else:
            image = self._aggregate(observation, options, refinement)
            plan = plan_whole_images(self.index, options, refinement, cancelled)
            posteriors = self._whole_image_posterior(observation, options, plan)
        prepared = _Prepared(measurement, observation, refinement, image, estimate)
        return self._collected(prepared, options, plan, posteriors, start)

    def estimate_noise(self, measurement: Measurement, cancelled: Cancel = never) -> NoiseEstimate:
        """Return the noise in a measurement: σ of white noise, or what is not stated of its gain and σ.

        Raises
        ------
        InvalidArgument
            The measurement does not fit the index, or the index cannot estimate noise.
        Cancelled
            `cancelled()` was true.
        """
        with self._unchanged():
            return self._estimate_noise(measurement, cancelled)

    def _estimate_noise(self, measurement: Measurement, cancelled: Cancel) -> NoiseEstimate:
        observation = self._observe(replace(measurement, sigma=1.0, gain=None))
        if measurement.gain is None:
            return estimate_noise(self._backend, observation, cancelled)
        require_map(self._backend, "noise")
        gain, sigma = (
            value if isinstance(value, float) else None for value in (measurement.gain, measurement.sigma)
        )
        return estimate_gain(self._backend, observation, gain, sigma, cancelled)

    def _with_noise(
        self, measurement: Measurement, options: Options, cancelled: Cancel
    ) -> tuple[Measurement, NoiseEstimate | None]:
        """Return a measurement whose noise is known, and the estimate of it; None if it was stated."""
        estimate = None
        if measurement.is_estimated:
            estimate = self._estimate_noise(measurement, cancelled)
            measurement = measurement.with_noise(estimate)
        if measurement.gain is not None:
            require_map(self._backend, "noise")
            plain = replace(options, maps=frozenset())
            p = self.index.manifest.patch_size
            measurement = settle(measurement, p, lambda one: self._answer(one, plain, cancelled).image)
        return measurement, estimate

    def answer_together(
        self, measurements: Sequence[Measurement], options: Options, cancelled: Cancel = never
    ) -> list[Result | InvalidArgument]:
        """Return the reconstructions of several small images in mode exact, by one sum over the keys.

        It takes up to a fifth of the time of one sum for each of them. Each result is that of `answer`; the
        time in its diagnostics is its share, in proportion to the pixels.

        Parameters
        ----------
        measurements : sequence of Measurement
            Images of any sizes with white noise of one σ. Arrays for all of their patches are held at once.
        options : Options
            As returned by `joint_options` for each of them.
        cancelled : callable
            As in `reconstruct`.

        Returns
        -------
        the result of each measurement, or the error if it does not fit the index
        """
        with self._unchanged():
            return self._answer_together(measurements, options, cancelled)

    def _answer_together(
        self, measurements: Sequence[Measurement], options: Options, cancelled: Cancel
    ) -> list[Result | InvalidArgument]:
        start = time.perf_counter()
        found = [self._prepared(measurement, options) for measurement in measurements]
        small = [one for one in found if not isinstance(one, InvalidArgument)]
        results = []
        if small:
            images = [queries for _, queries in small]
            refinement = small[0][0].refinement
            plan = plan_sums(self._backend, images[0], options, refinement, self.exact_work, cancelled)
            posteriors = joint_posteriors(self._backend, images, plan.spec)
            results = [
                self._collected(one, options, plan, [posterior], start)
                for (one, _), posterior in zip(small, posteriors, strict=True)
            ]
        each = (time.perf_counter() - start) / max(1, sum(queries.pixels for _, queries in small))
        answers = (
            replace(result, diagnostics=replace(result.diagnostics, seconds=each * queries.pixels))
            for (_, queries), result in zip(small, results, strict=True)
        )
        return [one if isinstance(one, InvalidArgument) else next(answers) for one in found]

    def _prepared(
        self, measurement: Measurement, options: Options
    ) -> "tuple[_Prepared, WhitenedQueries] | InvalidArgument":
        """Return a small image and its queries, or the error if it does not fit."""
        try:
            observation = self._observe(measurement)
            refinement = resolve_refinement(self.index, observation, options)
            queries = WhitenedQueries(self._backend, observation, refinement)
            image = self._aggregate(observation, options, refinement)
        except InvalidArgument as error:
            return error.with_traceback(None)  # it would refer to this frame, and that to the image
        return _Prepared(measurement, observation, refinement, image), queries

    def joint_options(self, measurement: Measurement, options: Options) -> Options | None:
        """Return the options with which `answer_together` answers a measurement as `answer` does.

        It is None for what it does not answer: other estimators and modes, noise maps and masks.
        """
        if options.estimator != "le-mmse" or options.mode not in ("auto", "exact"):
            return None
        if measurement.mask is not None or not isinstance(measurement.sigma, float) or measurement.gain:
            return None
        height, width = measurement.y.shape[:2]
        if options.mode == "auto" and exact_work(self._backend, height * width) > self.exact_work:
            return None
        return replace(options, mode="exact")

    def work(self, measurement: Measurement, options: Options) -> float:
        """Return the expected work of `answer`, in multiply-adds of the exact sum."""
        return request_work(self._backend, measurement, options, self.exact_work)

    def explanation_work(self, measurement: Measurement) -> float:
        """Return the expected work of `explain_pixel`, in multiply-adds of the exact sum."""
        work = exact_work(self._backend, 1)
        if measurement.gain is not None:
            return work + self.work(measurement, Options())
        return work + self.estimate_work(measurement) if measurement.is_estimated else work

    def estimate_work(self, measurement: Measurement) -> float:
        """Return the expected work of `estimate_noise`, in multiply-adds of the exact sum."""
        return estimate_work(self._backend, math.prod(measurement.y.shape[:2]))

    def expected_error(
        self, measurement: Measurement, options: Options, n: NDArray[np.int64], cancelled: Cancel = never
    ) -> float:
        """Return the mean square error to expect at some pixels, up to a number that no index changes.

        Aggregate centre stands for overlap, whose error takes far longer to tell, and le-mmse for the others.

        Parameters
        ----------
        measurement, options, cancelled
            As in `answer`.
        n : int, (N,)
            Positions of the pixels; those that were not observed do not count.
        """
        options = replace(options, estimator="le-mmse", maps=frozenset({"variance"}))
        observation = self._observe(measurement)
        refinement = replace(resolve_refinement(self.index, observation, options), aggregate="centre")
        queries = cut_queries(self._backend, observation, refinement)
        plan = plan_sums(self._backend, queries, options, refinement, self.exact_work, cancelled)
        posterior = queries.sums(n, plan.spec).posterior(self.index.manifest.channels)
        return expected_error(queries.clean(posterior, n), observation, n)

    def expected_db(self, measurement: Measurement) -> float:
        """Return the calibrated PSNR in dB of quality "best" at the noise level of a measurement.

        It is −∞ if the index was not calibrated, or does not support such a measurement.

        Raises
        ------
        InvalidArgument
            The measurement does not fit the index.
        """
        observation = self._observe(measurement)
        pictures = self.index.manifest.pictures
        takes_white_only = self.index.strata.constants is not None
        if pictures is None or (takes_white_only and not observation.is_white):
            return -math.inf
        return pictures.expected_db(observation.rms_sigma)

    def explain(
        self,
        y: ArrayLike,
        *,
        sigma: ArrayLike,
        mask: ArrayLike | None = None,
        pixel: tuple[int, int],
        top: int = 16,
        cancelled: Cancel = never,
    ) -> Explanation:
        """Return the training patches with the largest weights at one pixel of LE-MMSE, in mode exact.

        Parameters
        ----------
        y, sigma, mask, cancelled
            As in `reconstruct`.
        pixel : (int, int)
            Row and column of the pixel in y.
        top : int
            Number of training patches to return, >= 1; all are returned if there are fewer. Equal patches are
            returned separately.

        Raises
        ------
        InvalidArgument
            An argument has the wrong type, shape or value, or does not fit the index.
        Cancelled
            `cancelled()` was true.
        """
        measurement = Measurement.checked(y, sigma=sigma, mask=mask)
        options = ExplainOptions.checked(measurement.y.shape, pixel=pixel, top=top, most=math.inf)
        return self.explain_pixel(measurement, options, cancelled)

    def explain_pixel(
        self, measurement: Measurement, options: ExplainOptions, cancelled: Cancel = never
    ) -> Explanation:
        """Return the training patches with the largest weights at a pixel of a measurement; see `explain`."""
        with self._unchanged():
            return self._explain_pixel(measurement, options, cancelled)

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Raise DataLoss if a file of the index was changed before the end of the `with` block."""
        self.index.require_unchanged()
        yield
        self.index.require_unchanged()

    def _explain_pixel(
        self, measurement: Measurement, options: ExplainOptions, cancelled: Cancel
    ) -> Explanation:
        start = time.perf_counter()
        manifest = self.index.manifest
        measurement, estimate = self._with_noise(measurement, Options(), cancelled)
        observation = self._observe(measurement)
        top = min(options.top, manifest.keys)
        spec = SumSpec(outputs=Outputs(top=min(top, manifest.distinct)), cancelled=cancelled)
        row, column = options.pixel
        n = np.array([row * observation.y.shape[1] + column])
        sums = cut_queries(self._backend, observation).sums(n, spec)
        posterior = sums.posterior(manifest.channels)
        heaviest = zip(posterior.top_key[0].tolist(), posterior.top_weight[0].tolist(), strict=True)
        contributors = (
            contributor
            for key, weight in heaviest
            if key >= 0
            for contributor in self._contributors(key, weight, top, cancelled)
        )
        diagnostics = self._diagnostics(SumPlan(spec), PAPER, float(sums.keys_evaluated[0]), start)
        return Explanation(
            contributors=tuple(
                one.scaled(measurement.white_level, measurement.black_level)
                for one in islice(contributors, top)
            ),
            diagnostics=with_estimate(diagnostics, estimate),
        )

    def _observe(self, measurement: Measurement) -> Observation:
        return as_observation(measurement, self.index.manifest.channels)

    def _aggregate(self, observation: Observation, options: Options, refinement: Refinement) -> Aggregate:
        """Return the collector that makes an image from the posteriors of patches."""
        maps = options.maps | {"variance"} if is_scored(self.index, options, refinement) else options.maps
        if refinement.aggregate == "centre" or options.estimator != "le-mmse":
            return Centres(self.index.manifest.channels, maps)
        self._backend.require_clean_keys("aggregate", "overlap")
        height, width, _ = shape = observation.y.shape
        positions = np.arange(height * width).reshape(height, width, 1)
        return Overlap(shape, maps, lambda n: self._backend.patches(positions, n))

    @cached_property
    def _whole_images(self) -> WholeImages:
        """The training images, for the estimators that compare whole images."""
        if not any(self.index.image_size):
            raise InvalidArgument.of(
                "estimator", "expected an index of images of one size for mmse and e-mmse, got several sizes"
            )
        images = self.index.images()
        problem = self.index.problem
        clean = intensities(images.pixels).reshape(len(images), *images[0].shape)
        measured = clean if problem.physics == "identity" else np.stack([problem.measure(x) for x in clean])
        scale = None if problem.stationary else problem.scale(clean[0].shape)
        return WholeImages(clean, measured, self._backend.device, scale=scale)

    def _score(
        self, prepared: "_Prepared", options: Options, arrays: Mapping[str, NDArray[np.float32]]
    ) -> Score:
        """Return what the measurement says about the error of its reconstruction."""
        if not is_scored(self.index, options, prepared.refinement):
            return NO_SCORE
        height, width, _ = prepared.observation.y.shape
        once = np.ones((height, width), np.bool_)
        if options.estimator == "le-mmse":
            manifest = self.index.manifest
            once = read_once((height, width), manifest.patch_size, manifest.boundary)
        noise = prepared.estimate or NoiseEstimate((), ())
        errors = [2 * s * e for s, e in zip(noise.sigma, noise.sigma_error, strict=True)]
        noise_error = sum(errors) / max(1, len(errors))
        if noise.gain_error:
            noise_error += noise.gain_error * float(np.abs(prepared.observation.y).mean())
        return image_score(arrays, prepared.observation, once, noise_error)

    def _collected(
        self,
        prepared: "_Prepared",
        options: Options,
        plan: SumPlan,
        posteriors: Iterable[PixelPosteriors],
        start: float,
    ) -> Result:
        """Return the result made from the posteriors of a measurement."""
        keys_evaluated, estimated = _collect(posteriors, prepared.image)
        arrays = prepared.image.arrays()
        score = self._score(prepared, options, arrays)
        certified = None
        if options.certified:
            certified = float((arrays["error"] <= 10 ** (-requested_accuracy(options) / 20)).mean())
        refinement, measurement = prepared.refinement, prepared.measurement
        diagnostics = replace(
            self._diagnostics(plan, refinement, keys_evaluated, start, estimated, certified),
            expected_psnr_db=score.expected_psnr_db,
            misfit=score.misfit,
        )
        diagnostics = with_estimate(diagnostics, prepared.estimate)
        asked = {name: array for name, array in arrays.items() if name in {"image", *options.maps}}
        result = _result(asked, measurement.y.shape, diagnostics)
        return result.scaled(measurement.white_level, measurement.black_level)

    def _whole_image_posterior(
        self, observation: Observation, options: Options, plan: SumPlan
    ) -> Iterator[PixelPosteriors]:
        """Yield the posterior of MMSE or E-MMSE: one query, whose target is the whole image."""
        y = observation.y
        equivariant = options.estimator == "e-mmse"
        sums = self._whole_images.sums(y, observation.precision, plan.spec, equivariant=equivariant)
        n = np.arange(y.shape[0] * y.shape[1])
        yield PixelPosteriors(n, sums.posterior(y.size), sums.keys_evaluated)

    def _contributors(self, key: int, weight: float, most: int, cancelled: Cancel) -> Iterator[Contributor]:
        """Yield at most `most` training patches that equal a key, each with this weight."""
        start, stop = self.index.patch_range(key)
        patches = start, min(stop, start + most)
        symmetries = self.index.symmetries(*patches).tolist()
        for (image, row, column), symmetry in zip(self.index.ids(*patches).tolist(), symmetries, strict=True):
            raise_if_cancelled(cancelled)
            if symmetry >= len(SYMMETRIES):
                raise DataLoss(f"a patch is of symmetry {symmetry}, which does not exist; {REMEDY}")
            value = tuple(self.index.pixel(image, row, column).tolist())
            yield Contributor(
                image, self.index.labels[image], row, column, weight, value, SYMMETRIES[symmetry]
            )

    def _diagnostics(
        self,
        plan: SumPlan,
        refinement: Refinement,
        keys_evaluated: float,
        start: float,
        estimated_accuracy_db: float | None = None,
        certified: float | None = None,
    ) -> Diagnostics:
        return Diagnostics(
            mode=plan.spec.mode,
            index=self.index.name,
            version=self.index.version,
            keys=self.index.manifest.keys,
            keys_touched=keys_evaluated,
            seconds=time.perf_counter() - start,
            expected_accuracy_db=plan.expected_accuracy_db,
            estimated_accuracy_db=estimated_accuracy_db,
            certified=certified,
            aggregate=refinement.aggregate,
            bandwidth=refinement.bandwidth,
            gaussian_share=refinement.gaussian_share,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    """What a reconstruction begins with."""

    measurement: Measurement
    observation: Observation
    refinement: Refinement
    image: Aggregate
    estimate: NoiseEstimate | None = None


def _collect(posteriors: Iterable[PixelPosteriors], image: Aggregate) -> tuple[float, float | None]:
    """Add the posteriors to an image.

    Returns
    -------
    the mean number of keys evaluated for a query, and the estimated agreement with the sum over all keys,
    PSNR in dB; None if it is not estimated
    """
    evaluated, squares = [], []
    for n, posterior, keys_evaluated, square_error in posteriors:
        image.add(posterior, n)
        evaluated.append(keys_evaluated)
        if square_error is not None:
            squares.append(square_error)
    estimated = None
    if squares:
        estimated = -10 * math.log10(float(torch.cat(squares).mean()) + ROUNDING**2)
    return float(torch.cat(evaluated).double().mean()), estimated


def with_estimate(diagnostics: Diagnostics, estimate: NoiseEstimate | None) -> Diagnostics:
    """Return the diagnostics with the estimate of the noise, if there is one."""
    if estimate is None:
        return diagnostics
    return replace(diagnostics, sigma=estimate.sigma, sigma_error=estimate.sigma_error, gain=estimate.gain)


def _result(
    arrays: Mapping[str, NDArray[np.float32]], shape: tuple[int, ...], diagnostics: Diagnostics
) -> Result:
    """Return the result made from arrays with a row for each pixel, for a measurement of shape (H, W, …)."""
    maps = {
        name: arrays[name].reshape(shape if info.per_channel else shape[:2])
        for name, info in RESULT_MAPS.items()
        if name in arrays
    }
    return Result(image=arrays["image"].reshape(shape), diagnostics=diagnostics, **maps)


def _open_backend(index: Index, device: str, scheduler: str | None) -> Backend:
    """Return the backend for keys in this process, or for keys on the workers of a scheduler."""
    if scheduler is None:
        return LocalBackend(index, _as_device(device))
    if device not in ("auto", "cpu"):
        raise InvalidArgument.of("device", f"expected auto or cpu with a scheduler, got {device!r}")
    return DistributedBackend(index, scheduler)


def _as_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidArgument.of(
            "device", f"expected auto, cpu or a GPU that torch sees, got {device!r}"
        ) from error
    return torch.device(device)
