"""The estimator of an index: from a measurement to a reconstruction and its maps."""

import math
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import (
    RESULT_MAPS,
    Diagnostics,
    Explanation,
    NoiseEstimate,
    Result,
    with_estimate,
)
from lemmse.contract.tensors import FloatArray
from lemmse.estimator.aggregate import Aggregate, Centres, Overlap
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel, never, raise_if_cancelled
from lemmse.estimator.contributors import contributors
from lemmse.estimator.costs import (
    derivative_work,
    estimate_work,
    exact_work,
    exclusion_work,
    pixels_of,
    request_work,
)
from lemmse.estimator.distributed import DistributedBackend
from lemmse.estimator.exclusions import Exclusions
from lemmse.estimator.gaussians import Gaussians
from lemmse.estimator.gradients import vector_jacobian_product
from lemmse.estimator.half_quadratic import split
from lemmse.estimator.image_noise import estimate_gain, estimate_noise
from lemmse.estimator.image_queries import WhitenedQueries, cut_queries, require_map
from lemmse.estimator.local import LocalBackend, as_device
from lemmse.estimator.observation import Observation, as_observation
from lemmse.estimator.pixel_posteriors import (
    ROUNDING,
    PixelPosteriors,
    joint_posteriors,
    pixel_posteriors,
)
from lemmse.estimator.planning import (
    SumPlan,
    is_cheap,
    is_scored,
    plan_sums,
    plan_whole_images,
    requested_accuracy,
)
from lemmse.estimator.refinement import resolve_refinement, splits
from lemmse.estimator.score import NO_SCORE, Fit, Score, expected_error, image_score, read_once
from lemmse.estimator.signal_noise import settle
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs
from lemmse.estimator.whole_images import WholeImages
from lemmse.index import Index
from lemmse.index.reading import find_images, leave_out
from lemmse.index.sources import intensities
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["DEFAULT_EXACT_WORK", "Reconstructor"]

DEFAULT_EXACT_WORK = 1e11
"""Default limit of the multiply-adds, Q·U·P, for which mode auto is exact: a few seconds on two cores."""


class Reconstructor:
    """The estimator for one index. It is thread-safe.

    Parameters
    ----------
    index : Index
        The index of the training patches. Its keys are memory-mapped on a CPU, and copied to a GPU; those
        that do not fit are copied for each block of pixels, while others are summed.
    device : str
        "cpu", "cuda" or "cuda:N"; "auto" is a GPU if torch finds one, otherwise the CPU. With a scheduler, it
        is the device of the workers, and "auto" is the CPU.
    exact_work : float
        Largest number of multiply-adds for which mode "auto" is exact on a CPU, counted as the product of the
        number of pixels to reconstruct, the number of distinct keys U and the patch length P. Above it, the
        mode is hybrid. On a GPU, "auto" takes what is measured to be faster.
    scheduler : str, optional
        Address of a Dask scheduler. Its workers each read some shards of the index, and sum over these keys;
        this process then holds no keys. All workers must see the folder of the index under the
        same path. Mode "topk" is not available.

    Raises
    ------
    InvalidArgument
        The device does not exist or has not even memory for a share of the keys, or Dask is not installed.
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
        # It must not refer to this object, which is closed when nothing refers to it any more.
        self._exclusions = Exclusions(partial(_leave_out, index, device, exact_work, scheduler))
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
        self._exclusions.clear()
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
            if options.estimator != "le-mmse" or not options.exclude:
                return self._answer(measurement, options, cancelled)
            with self._exclusions.use(self.excluded(options.exclude), cancelled) as rest:
                return rest._answer(measurement, options, cancelled)

    def excluded(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the numbers of the training images that names stand for, ascending.

        Raises
        ------
        InvalidArgument
            A name stands for no image, or no image would remain.
        """
        images = find_images(self.index, "exclude", names, numbers=True)
        if len(images) == self.index.manifest.images:
            raise InvalidArgument.of(
                "exclude", f"expected some images of {self.index.name!r} to remain, got all {len(images)}"
            )
        return tuple(images.tolist())

    def _answer(self, measurement: Measurement, options: Options, cancelled: Cancel) -> Result:
        start = time.perf_counter()
        measurement, estimate = self._with_noise(measurement, options, cancelled)
        observation = self._observe(measurement, cancelled)
        refinement = resolve_refinement(self.index, observation.rms_sigma, options)
        passes: list[_Sums] = []
        if options.estimator == "le-mmse":
            answer = partial(self._patch_posteriors, options, refinement, cancelled)
            gaussians = None
            if refinement.aggregate == "epll":
                observation, gaussians = self._split(observation, refinement, answer, passes, cancelled)
            image, plan, posteriors = answer(observation, gaussians)
        else:
            image = self._aggregate(observation, options, refinement)
            plan = plan_whole_images(self.index, options, refinement, cancelled)
            posteriors = self._whole_image_posterior(observation, options, plan)
        prepared = _Prepared(measurement, observation, refinement, image, estimate)
        result = self._collected(prepared, options, plan, posteriors, start, passes)
        if options.estimator == "le-mmse" or not options.exclude:
            return result
        left = (
            self.index.manifest.keys - self.index.patches_of_images[[*self.excluded(options.exclude)]].sum()
        )
        return replace(result, diagnostics=replace(result.diagnostics, keys=int(left)))

    def _patch_posteriors(
        self,
        options: Options,
        refinement: Refinement,
        cancelled: Cancel,
        observation: Observation,
        gaussians: Gaussians | None = None,
    ) -> "_Answer":
        """Return the posteriors of the patches of an observation, with other Gaussians if there are some."""
        queries = cut_queries(self._backend, observation, refinement, gaussians)
        image = self._aggregate(observation, options, refinement)
        plan = plan_sums(self._backend, queries, options, refinement, self.exact_work, cancelled)
        return image, plan, pixel_posteriors(self._backend, queries, plan, observation.pixels)

    def _split(
        self,
        observation: Observation,
        refinement: Refinement,
        answer: "Callable[[Observation, Gaussians | None], _Answer]",
        passes: "list[_Sums]",
        cancelled: Cancel,
    ) -> tuple[Observation, Gaussians | None]:
        """Return the observation whose mean over overlapping patches is that of "epll", and its Gaussians.

        Gaussians of the prior are adapted to a first answer, which the second one begins with.
        """
        self._backend.require_white_noise("aggregate", "epll")

        def mean(one: Observation, gaussians: Gaussians | None = None) -> NDArray[np.float64]:
            image, _, posteriors = answer(one, gaussians)
            passes.append(_collect(posteriors, image))
            return image.arrays()["image"].astype(np.float64).reshape(one.y.shape)

        last = split(observation, mean)
        if not refinement.gaussian_share:
            return last, None
        first = replace(last, y=mean(last))
        gaussians = WhitenedQueries(self._backend, first, refinement).adapted(cancelled)
        return split(observation, partial(mean, gaussians=gaussians), first.y), gaussians

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
        observation = self._observe(replace(measurement, sigma=1.0, gain=None), cancelled)
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
            # Gaussians take most of the time of noise maps, and change the means of patches hardly at all.
            plain = replace(options, maps=frozenset(), gaussian_share=0.0)
            mean = measurement.with_mean_noise().sigma
            if isinstance(mean, float) and splits(self.index, mean, plain):
                plain = replace(plain, aggregate="overlap")
            measurement = settle(
                measurement, self.index.manifest, lambda one: self._answer(one, plain, cancelled).image
            )
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
            refinement = resolve_refinement(self.index, observation.rms_sigma, options)
            queries = WhitenedQueries(self._backend, observation, refinement)
            image = self._aggregate(observation, options, refinement)
        except InvalidArgument as error:
            return error.with_traceback(None)  # it would refer to this frame, and that to the image
        return _Prepared(measurement, observation, refinement, image), queries

    def joint_options(self, measurement: Measurement, options: Options) -> Options | None:
        """Return the options with which `answer_together` answers a measurement as `answer` does.

        It is None for what it does not answer: other estimators and modes, aggregate epll, noise maps, masks,
        excluded images and volumes.
        """
        if options.estimator != "le-mmse" or options.mode not in ("auto", "exact") or options.exclude:
            return None
        if self._volumes:
            return None
        if measurement.mask is not None or not isinstance(measurement.sigma, float) or measurement.gain:
            return None
        if splits(self.index, measurement.sigma, options):
            return None
        pixels = self.pixels(measurement)
        work = exact_work(self._backend, pixels)
        if options.mode == "auto" and not is_cheap(self._backend, pixels, work, self.exact_work):
            return None
        return replace(options, mode="exact")

    def pixels(self, measurement: Measurement) -> int:
        """Return the number of pixels of a measurement; in volumes, those of all planes."""
        return pixels_of(self._backend, measurement)

    def work(self, measurement: Measurement, options: Options) -> float:
        """Return the expected work of `answer`, in multiply-adds of the exact sum.

        Raises
        ------
        InvalidArgument
            An image to exclude does not exist.
        """
        work = request_work(self._backend, measurement, options, self.exact_work)
        return work + (self._exclusion_work(options.exclude) if options.estimator == "le-mmse" else 0.0)

    def differentiate(
        self, measurement: Measurement, vector: FloatArray, options: Options, cancelled: Cancel = never
    ) -> NDArray[np.float32]:
        """Return a vector times the derivative of a reconstruction with respect to y, in the shape of y.

        The reconstruction is that of LE-MMSE in mode exact, whatever the options say. A noise that is to be
        estimated, or depends on the image, is held fixed at what it is in the answer.

        Parameters
        ----------
        measurement : Measurement
            The measurement to reconstruct.
        vector : float, shape of y
            What to multiply with, see `lemmse.client.Client.vjp`.
        options : Options
            The prior, the aggregate, and the training images to leave out.
        cancelled : callable
            As in `reconstruct`.

        Raises
        ------
        InvalidArgument
            The measurement does not fit the index, the index is not one of clean patches, or an image to
            exclude does not exist.
        Cancelled
            `cancelled()` was true.
        """
        with self._unchanged():
            if not options.exclude:
                return self._differentiate(measurement, vector, options, cancelled)
            with self._exclusions.use(self.excluded(options.exclude), cancelled) as rest:
                return rest._differentiate(measurement, vector, options, cancelled)

    def _differentiate(
        self, measurement: Measurement, vector: FloatArray, options: Options, cancelled: Cancel
    ) -> NDArray[np.float32]:
        self._backend.require_white_noise("vector", "the derivative of a reconstruction")
        measurement, _ = self._with_noise(measurement, options, cancelled)
        observation = self._observe(measurement, cancelled)
        refinement = resolve_refinement(self.index, observation.rms_sigma, options, once=True)
        queries = cut_queries(self._backend, observation, refinement)
        g = vector.astype(np.float64).reshape(observation.y.shape)
        largest = np.abs(g).max() or 1.0  # the product is linear in g, and computed with numbers within 1
        product = vector_jacobian_product(
            self._backend, queries, g / largest, refinement.aggregate, cancelled
        )
        return (largest * product).astype(np.float32).reshape(vector.shape)

    def derivative_work(self, measurement: Measurement, options: Options) -> float:
        """Return the expected work of `differentiate`, in multiply-adds of the exact sum."""
        work = derivative_work(self._backend, measurement) + self._exclusion_work(options.exclude)
        return work + self._noise_work(measurement, options)

    def explanation_work(self, measurement: Measurement, options: ExplainOptions) -> float:
        """Return the expected work of `explain_pixel`, in multiply-adds of the exact sum."""
        work = exact_work(self._backend, 1) + self._exclusion_work(options.exclude)
        return work + self._noise_work(measurement, Options())

    def _noise_work(self, measurement: Measurement, options: Options) -> float:
        """Return the expected work of finding the noise of a measurement, before it is answered."""
        if measurement.gain is not None:
            return request_work(self._backend, measurement, options, self.exact_work)
        return self.estimate_work(measurement) if measurement.is_estimated else 0.0

    def _exclusion_work(self, names: Sequence[str]) -> float:
        """Return the expected work of leaving training images out, done once for each set of them."""
        if not names or self.excluded(names) in self._exclusions:
            return 0.0
        return exclusion_work(self._backend)

    def estimate_work(self, measurement: Measurement) -> float:
        """Return the expected work of `estimate_noise`, in multiply-adds of the exact sum."""
        return estimate_work(self._backend, self.pixels(measurement))

    @property
    def takes_maps(self) -> bool:
        """Whether noise that is not the same everywhere is allowed, if the index denoises."""
        return self.index.strata.constants is None

    def fit(
        self, measurement: Measurement, options: Options, n: NDArray[np.int64], cancelled: Cancel = never
    ) -> Fit:
        """Return how well the training images describe a measurement at some pixels.

        Aggregate centre stands for the others, whose error takes far longer to tell, and so does le-mmse.

        Parameters
        ----------
        measurement, options, cancelled
            As in `answer`.
        n : int, (N,)
            Positions of the pixels; those that were not observed do not count.
        """
        options = replace(options, estimator="le-mmse", maps=frozenset({"variance"}))
        observation = self._observe(measurement, cancelled)
        options = replace(options, aggregate="centre")
        refinement = resolve_refinement(self.index, observation.rms_sigma, options)
        queries = cut_queries(self._backend, observation, refinement)
        plan = plan_sums(self._backend, queries, options, refinement, self.exact_work, cancelled)
        posterior = queries.sums(n, plan.spec).posterior(self.index.manifest.channels)
        error = expected_error(queries.clean(posterior, n), observation, n)
        return Fit(float(posterior.log_density.mean()), error)

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
        if pictures is None or not (observation.is_white or self.takes_maps):
            return -math.inf
        return pictures.expected_db(observation.rms_sigma)

    def explain(
        self,
        y: ArrayLike,
        *,
        sigma: ArrayLike,
        mask: ArrayLike | None = None,
        pixel: Sequence[int],
        top: int = 16,
        context: int | None = None,
        exclude: Collection[str | int] = (),
        cancelled: Cancel = never,
    ) -> Explanation:
        """Return the training patches with the largest weights at one pixel of LE-MMSE, in mode exact.

        Parameters
        ----------
        y, sigma, mask, cancelled
            As in `reconstruct`.
        pixel : (int, int) or (int, int, int)
            Row and column of the pixel in y; in a volume plane, row and column.
        top : int
            Number of training patches to return, >= 1; all are returned if there are fewer. Equal patches are
            returned separately.
        context : int, optional
            Pixels around each patch that its crop shows on each side; by default there are no crops.
        exclude : collection of str or int
            Training images to leave out, as in `lemmse.contract.options.Options`.

        Raises
        ------
        InvalidArgument
            An argument has the wrong type, shape or value, or does not fit the index.
        Cancelled
            `cancelled()` was true.
        """
        measurement = Measurement.checked(y, sigma=sigma, mask=mask)
        options = ExplainOptions.checked(
            measurement.y.shape, pixel=pixel, top=top, context=context, exclude=exclude, most=math.inf
        )
        return self.explain_pixel(measurement, options, cancelled)

    def explain_pixel(
        self, measurement: Measurement, options: ExplainOptions, cancelled: Cancel = never
    ) -> Explanation:
        """Return the training patches with the largest weights at a pixel of a measurement; see `explain`."""
        with self._unchanged():
            if not options.exclude:
                return self._explain_pixel(measurement, options, cancelled)
            with self._exclusions.use(self.excluded(options.exclude), cancelled) as rest:
                return rest._explain_pixel(measurement, options, cancelled)

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
        observation = self._observe(measurement, cancelled)
        top = min(options.top, manifest.keys)
        _require_small(options.context, top, manifest.patch_size, manifest.channels)
        spec = SumSpec(outputs=Outputs(top=min(top, manifest.distinct)), cancelled=cancelled)
        options.require_axes(3 if self._volumes else 2)
        place = (0, *options.pixel)[-3:]  # an image is plane 0
        n = np.array([np.ravel_multi_index(place, observation.y.shape[:3])])
        sums = cut_queries(self._backend, observation).sums(n, spec)
        posterior = sums.posterior(manifest.channels)
        keys, weights = posterior.top_key[0].cpu().numpy(), posterior.top_weight[0].cpu().numpy()
        heaviest = contributors(self.index, keys, weights, top, options.context, cancelled)
        diagnostics = self._diagnostics(SumPlan(spec), PAPER, float(sums.keys_evaluated[0]), start)
        return Explanation(
            contributors=tuple(
                one.scaled(measurement.white_level, measurement.black_level) for one in heaviest
            ),
            diagnostics=with_estimate(diagnostics, estimate),
        )

    def _observe(self, measurement: Measurement, cancelled: Cancel = never) -> Observation:
        return as_observation(measurement, self.index.manifest.channels, cancelled, volume=self._volumes)

    @property
    def _volumes(self) -> bool:
        """Whether patches lie in several planes of a volume."""
        return self.index.manifest.patch_depth > 1

    def _aggregate(self, observation: Observation, options: Options, refinement: Refinement) -> Aggregate:
        """Return the collector that makes an image from the posteriors of patches."""
        maps = options.maps | {"variance"} if is_scored(self.index, options, refinement) else options.maps
        if refinement.aggregate == "centre" or options.estimator != "le-mmse":
            return Centres(self.index.manifest.channels, maps)
        self._backend.require_clean_keys("aggregate", "overlap")
        *pixels, channels = observation.y.shape
        positions = self._backend.cut(np.arange(observation.pixels).reshape(*pixels, 1))
        return Overlap(observation.pixels, channels, maps, positions.at, self._backend.device)

    @cached_property
    def _whole_images(self) -> dict[tuple[int, int], tuple[NDArray[np.int64], WholeImages]]:
        """The training images of each size that was needed to compare whole images, and their numbers."""
        return {}

    def _images_to_compare(self, exclude: Sequence[str]) -> tuple[WholeImages, NDArray[np.int64]]:
        """Return training images, and which of them count: all images of the index but the excluded ones.

        Raises
        ------
        InvalidArgument
            They are planes of volumes, or not of one size.
        """
        if self._volumes:
            raise InvalidArgument.of("estimator", "expected le-mmse for an index of volumes")
        index, sizes = self.index, self.index.sizes
        out = self.excluded(exclude) if exclude else ()
        numbers = np.setdiff1d(np.arange(len(sizes)), out)
        if (sizes[numbers] != sizes[numbers[0]]).any():
            raise InvalidArgument.of(
                "estimator", "expected an index of images of one size for mmse and e-mmse, got several sizes"
            )
        height, width = size = tuple(sizes[numbers[0]].tolist())
        if size not in self._whole_images:
            alike, images = np.flatnonzero((sizes == size).all(axis=1)), index.images()
            clean = np.stack([intensities(images[k]) for k in alike.tolist()])
            problem = index.problem
            measured = (
                clean if problem.physics == "identity" else np.stack([problem.measure(x) for x in clean])
            )
            scale = None if problem.stationary else problem.scale(clean[0].shape)
            whole = WholeImages(clean, measured, self._backend.device, scale=scale)
            self._whole_images[height, width] = alike, whole
        alike, whole = self._whole_images[height, width]
        return whole, np.searchsorted(alike, numbers)

    def _score(
        self, prepared: "_Prepared", options: Options, arrays: Mapping[str, NDArray[np.float32]]
    ) -> Score:
        """Return what the measurement says about the error of its reconstruction."""
        if not is_scored(self.index, options, prepared.refinement):
            return NO_SCORE
        pixels, manifest = prepared.observation.y.shape[:3], self.index.manifest
        once = np.ones(pixels, np.bool_)
        if options.estimator == "le-mmse":
            sides = manifest.patch_depth, manifest.patch_size, manifest.patch_size
            once = read_once(pixels, sides, manifest.boundary)
        noise = prepared.estimate or NoiseEstimate((), ())
        errors = [2 * s * e for s, e in zip(noise.sigma, noise.sigma_error, strict=True)]
        noise_error = sum(errors) / max(1, len(errors))
        if noise.gain_error:
            noise_error += noise.gain_error * float(np.abs(prepared.observation.y).mean())
        return image_score(arrays, prepared.observation, once, self.index.problem, noise_error)

    def _collected(
        self,
        prepared: "_Prepared",
        options: Options,
        plan: SumPlan,
        posteriors: Iterable[PixelPosteriors],
        start: float,
        passes: Sequence["_Sums"] = (),
    ) -> Result:
        """Return the result made from the posteriors of a measurement, after other passes over its keys."""
        sums = [*passes, _collect(posteriors, prepared.image)]
        keys_evaluated = sum(one.keys_evaluated for one in sums)
        known = [one.accuracy_db for one in sums if one.accuracy_db is not None]
        estimated = min(known) if known else None
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
        axes = 3 if self._volumes else 2
        return measurement.returned(_result(asked, measurement.y.shape, axes, diagnostics))

    def _whole_image_posterior(
        self, observation: Observation, options: Options, plan: SumPlan
    ) -> Iterator[PixelPosteriors]:
        """Yield the posterior of MMSE or E-MMSE: one query, whose target is the whole image."""
        whole, some = self._images_to_compare(options.exclude)
        (y,), precision = observation.y, observation.precision
        equivariant = options.estimator == "e-mmse"
        precision = precision if observation.is_white else precision[0]
        sums = whole.sums(y, precision, plan.spec, equivariant=equivariant, some=some)
        n = np.arange(observation.pixels)
        posterior = sums.posterior(y.size)
        image = posterior.top_key // len(n) if equivariant else posterior.top_key
        yield PixelPosteriors(n, replace(posterior, source=image), sums.keys_evaluated)

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


_Answer = tuple[Aggregate, SumPlan, Iterator[PixelPosteriors]]
"""What makes an image from posteriors, their plan, and the posteriors, as they are summed."""


class _Sums(NamedTuple):
    """What the sums of an image were."""

    keys_evaluated: float
    """Mean number of keys evaluated for a query."""
    accuracy_db: float | None
    """Estimated agreement with the sum over all keys, PSNR in dB; None if it is not estimated."""


def _collect(posteriors: Iterable[PixelPosteriors], image: Aggregate) -> _Sums:
    """Add the posteriors to an image."""
    evaluated, squares = [], []
    for n, posterior, keys_evaluated, square_error in posteriors:
        image.add(posterior, n)
        evaluated.append(keys_evaluated)
        if square_error is not None:
            squares.append(square_error)
    estimated = None
    if squares:
        estimated = -10 * math.log10(float(torch.cat(squares).mean()) + ROUNDING**2)
    return _Sums(float(torch.cat(evaluated).double().mean()), estimated)


def _result(
    arrays: Mapping[str, NDArray[np.float32]], shape: tuple[int, ...], axes: int, diagnostics: Diagnostics
) -> Result:
    """Return the result made from arrays with a row for each pixel, the first so many axes of y's shape."""
    maps: dict[str, Any] = {
        name: arrays[name].reshape(shape if info.per_channel else shape[:axes])
        for name, info in RESULT_MAPS.items()
        if name in arrays
    }
    return Result(image=arrays["image"].reshape(shape), diagnostics=diagnostics, **maps)


def _require_small(context: int | None, top: int, patch_size: int, channels: int) -> None:
    """Raise InvalidArgument if the crops of an explanation do not fit into a message."""
    if context is None:
        return
    side = patch_size + 2 * context
    nbytes = top * side**2 * channels * np.dtype(np.float32).itemsize
    if nbytes > INLINE_BYTES:
        raise InvalidArgument.of(
            "context",
            f"expected crops of at most {INLINE_BYTES} bytes, got {top} of {side}x{side} pixels: {nbytes} "
            "bytes; ask for fewer contributors, or for less context",
        )


def _leave_out(
    index: Index,
    device: str,
    exact_work: float,
    scheduler: str | None,
    images: tuple[int, ...],
    cancelled: Cancel,
) -> Reconstructor:
    """Return the estimator for an index without the images with these numbers.

    Raises
    ------
    InvalidArgument
        Without them there are no keys, or none for a pattern of the mask of the index.
    """
    view = leave_out(index, np.array(images), refits=False)
    raise_if_cancelled(cancelled)
    strata = [np.diff(one.cell_keys[index.stratum_cells]) for one in (view, index)]
    if not view.manifest.keys or (index.strata.exclusive and (strata[0] == 0)[strata[1] > 0].any()):
        raise InvalidArgument.of(
            "exclude",
            f"expected patches of all patterns to remain, got {len(images)} images without which "
            f"{index.name!r} lacks some",
        )
    if scheduler is None:
        view.load(lambda: raise_if_cancelled(cancelled))
    return Reconstructor(view, device=device, exact_work=exact_work, scheduler=scheduler)


def _open_backend(index: Index, device: str, scheduler: str | None) -> Backend:
    """Return the backend for keys in this process, or for keys on the workers of a scheduler."""
    if scheduler is None:
        return LocalBackend(index, as_device(device))
    return DistributedBackend(index, scheduler, "cpu" if device == "auto" else device)
