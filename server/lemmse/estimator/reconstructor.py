"""From a measurement to a reconstruction: the way through the estimators, and what comes back."""

import math
import time
from collections.abc import Collection, Iterator
from dataclasses import fields, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.aggregate import Aggregate, Centres, Overlap
from lemmse.estimator.arguments import (
    Measurement,
    as_accuracy,
    as_aggregate,
    as_bandwidth,
    as_count,
    as_error,
    as_estimator,
    as_gaussian_share,
    as_maps,
    as_measurement,
    as_mode,
    as_pixel,
    as_quality,
)
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel, never, stop_if
from lemmse.estimator.distributed import DistributedBackend
from lemmse.estimator.image_queries import ImageQueries, cut_queries
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.method import DEFAULT_K, DEFAULT_NPROBE, Method
from lemmse.estimator.results import Contributor, Diagnostics, Explanation, Reconstruction
from lemmse.estimator.sums import Posterior, Want
from lemmse.estimator.whole_images import WholeImages
from lemmse.index import Index
from lemmse.index.images.symmetries import SYMMETRIES
from lemmse.index.sources import intensities
from lemmse.index.storage.calibration_record import OperatingPoint
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["DEFAULT_ACCURACY_DB", "DEFAULT_EXACT_WORK", "DEFAULT_K", "DEFAULT_NPROBE", "Reconstructor"]

DEFAULT_EXACT_WORK = 1e11
"""Multiply-adds, Q·U·P, up to which `auto` sums all keys: some seconds on two cores."""
_BLOCK = 16_384
"""Query patches cut at a time."""
DEFAULT_ACCURACY_DB = 50.0
"""Agreement with the sum over all keys that is asked of `hybrid` unless told otherwise."""
_UNCALIBRATED = 2.0, -1 / 7
"""Threshold at 0 dB, and for each decibel, where none was measured: low, not to promise too much."""
_WEIGHTED = 2.0, -1 / 5
"""The same for a mask or a noise map, with which less is known of a group."""
_UNITS = 2.0
"""Units in the last place of (1 + P) / σ² that log w is off by in float32."""
_ROUNDING = 1e-5
"""What two sums of the same weights in float32 may differ by."""
_EXACT = Method("exact")


class Reconstructor:
    """An index, ready to answer; several threads may call it at once.

    Parameters
    ----------
    index : Index
        Where the training patches come from. On a CPU its keys are mapped, on a GPU copied there.
    device : str
        "cpu", "cuda" or "cuda:N"; "auto" is a GPU where torch sees one.
    exact_work : float
        Multiply-adds up to which mode "auto" is exact: the product of the number of pixels to reconstruct,
        the number of distinct keys U and the patch length P. Beyond, it is hybrid.
    scheduler : str, optional
        Address of a Dask scheduler whose workers read the keys, each some of the shards of the index, and
        sum over them on the CPU; nothing of the keys is in this process then. All must see the index's
        folder under the same path. Mode "topk" is not for these.

    Raises
    ------
    InvalidArgument
        The device is not there, or Dask is not installed.
    NotFound
        No scheduler answers at the address.
    DataLoss
        A worker does not see the index, or finds it damaged.
    Unavailable
        There is no worker, or workers were lost again and again.

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
        self._backend = _backend_of(index, device, scheduler)

    def close(self) -> None:
        """Have the workers of a scheduler let go of the keys."""
        self._backend.close()

    def prepare(self) -> None:
        """Do now what the first requests in hybrid and topk would wait for, as a server does at its start."""
        self._backend.prepare()

    @cached_property
    def _whole_images(self) -> WholeImages:
        """The training images, for the estimators that compare whole images."""
        images = self.index.images()
        if len(np.unique(images.sizes, axis=0)) > 1:
            raise InvalidArgument.of(
                "estimator", "expected an index of images of one size for mmse and e-mmse, got several sizes"
            )
        problem = self.index.problem
        clean = intensities(images.pixels).reshape(len(images), *images[0].shape)
        measured = clean if problem.physics == "identity" else np.stack([problem.measure(x) for x in clean])
        scale = None if problem.stationary else problem.scale(clean[0].shape)
        return WholeImages(clean, measured, self._backend.device, scale=scale)

    def reconstruct(
        self,
        y: ArrayLike,
        *,
        sigma: ArrayLike,
        mask: ArrayLike | None = None,
        estimator: str = "le-mmse",
        mode: str = "auto",
        k: int | None = None,
        nprobe: int | None = None,
        accuracy_db: float | None = None,
        budget: int | None = None,
        maps: Collection[str] = (),
        error: str = "estimated",
        aggregate: str | None = None,
        bandwidth: float | None = None,
        gaussian_share: float | None = None,
        quality: str = "paper",
        cancelled: Cancel = never,
    ) -> Reconstruction:
        """Reconstruct an image of any size: the posterior mean at every pixel.

        Parameters
        ----------
        y : float, (H, W) or (H, W, C)
            The measurement, in the intensities of the clean images, [0, 1].
        sigma : float or array (H, W) or (H, W, C)
            Noise standard deviation, in intensity units, in [1e-6, 1e6]; an array on an index of physics and
            pre-inverse identity only.
        mask : array (H, W) or (H, W, C), optional
            0 or False where nothing was observed, whatever y says there; on such an index only. Inpainting,
            demosaicing and super-resolution by decimation are masks.
        estimator : str
            "le-mmse" compares patches; "e-mmse" whole images in all translations, "mmse" whole images.
            These two need y of the training images' size, and always sum over all of them.
        mode : str
            "exact" sums all keys, "topk" the k nearest, "hybrid" those that matter one by one and all others
            by the moments of their groups; "auto" is exact up to `exact_work`, else hybrid.
        k, nprobe : int, optional
            Neighbours to sum and cells to search in topk.
        accuracy_db : float, optional
            Agreement with the sum over all keys that is asked of hybrid, PSNR in dB, in (0, 120]; 50 if not
            given.
        budget : int, optional
            Keys that hybrid may sum for each patch, >= 1; as many as the accuracy takes if not given.
        maps : collection of str
            Results beside the image: "variance", "ess", "log_density", and "error", which topk does not know.
        error : str
            What the error map is: "estimated", which |image − sum over all keys| is below for 95 % of pixels
            and channels, or "certified", which it is always below.
        aggregate : str, optional
            "centre" takes every pixel from the patch centred at it, "overlap" the mean of what all patches
            that hold it say; on an index of physics and pre-inverse identity only. Of overlap, ESS and log
            density are means over these patches, and the variance is the expected squared error of that
            mean. What `quality` says if not given.
        bandwidth : float, optional
            Standard deviation τ of a Gaussian about each patch of the prior, which stands for what the
            training images do not show, in intensity units, in [0, 1e6]; on such an index only. What
            `quality` says if not given.
        gaussian_share : float, optional
            Share of the prior, in [0, 1], that the mixture of Gaussians has which was fitted to the training
            patches; these have the rest. Each Gaussian counts as one key in the ESS. On such an index only.
            What `quality` says if not given.
        quality : str
            "paper" is the formula untouched, centre, τ = 0 and no Gaussians; "best" takes what calibration
            found best on held-out training images at this noise.
        cancelled : callable
            Polled between tiles of work; when true, the call ends.

        Raises
        ------
        InvalidArgument
            An argument is not as described.
        Cancelled
            `cancelled()` was true.

        References
        ----------
        arXiv 2601.10334, the MMSE, E-MMSE and LE-MMSE estimators.
        """
        start = time.perf_counter()
        measurement = as_measurement(y, sigma, mask, self.index.manifest.channels)
        estimator = as_estimator(estimator)
        asked = as_maps(maps)
        certified = as_error(error) == "certified" and "error" in asked
        accuracy = DEFAULT_ACCURACY_DB if accuracy_db is None else as_accuracy(accuracy_db)
        method = Method(
            as_mode(mode),
            k=as_count("k", DEFAULT_K if k is None else k),
            nprobe=as_count("nprobe", DEFAULT_NPROBE if nprobe is None else nprobe),
            budget=None if budget is None else as_count("budget", budget),
        )
        if method.mode == "topk" and "error" in asked:
            raise InvalidArgument.of(
                "maps", "expected other maps than error for mode topk, which does not know it"
            )
        given: dict[str, Any] = {
            name: check(value)
            for name, check, value in (
                ("aggregate", as_aggregate, aggregate),
                ("bandwidth", as_bandwidth, bandwidth),
                ("gaussian_share", as_gaussian_share, gaussian_share),
            )
            if value is not None
        }
        best = as_quality(quality) == "best" and estimator == "le-mmse" and len(given) < len(fields(PAPER))
        refinement = replace(self._best(measurement) if best else PAPER, **given)
        overlap = refinement.aggregate == "overlap"
        want = Want(variance="variance" in asked, ess="ess" in asked, error="error" in asked, patch=overlap)
        height, width, channels = measurement.y.shape
        image: Aggregate = Centres(channels, asked)
        if estimator == "le-mmse":
            view = cut_queries(self._backend, measurement, refinement)
            if overlap:
                image = self._overlap(measurement.y.shape, asked)
            plan = self._plan(view.sigma, accuracy)
            method = self._chosen(method, view, plan, accuracy, want, certified)
            hybrid = method.mode == "hybrid"
            posteriors = (
                (
                    n,
                    *self._posterior(
                        view, n, method, want, accuracy if certified and hybrid else None, cancelled
                    ),
                )
                for n in _blocks(height * width)
            )
        else:
            for argument in (field.name for field in fields(PAPER)):
                if getattr(refinement, argument) != getattr(PAPER, argument):
                    raise InvalidArgument.of(argument, f"expected none for {estimator}, which has no patches")
            if method.mode in ("topk", "hybrid"):
                raise InvalidArgument.of("mode", f"expected auto or exact for {estimator}, got {method.mode}")
            method, plan = replace(method, mode="exact"), None
            n = np.arange(height * width)
            posteriors = ((n, *self._whole(measurement, estimator, want, cancelled)) for _ in range(1))
        touched = []
        for n, posterior, keys_touched in posteriors:
            touched.append(keys_touched)
            image.add(posterior, n)
        arrays = image.arrays()
        shape = np.shape(y)
        tolerance = 10 ** (-accuracy / 20)
        return Reconstruction(
            image=arrays["image"].reshape(shape),
            variance=arrays["variance"].reshape(shape) if "variance" in asked else None,
            ess=arrays["ess"].reshape(shape[:2]) if "ess" in asked else None,
            log_density=arrays["log_density"].reshape(shape[:2]) if "log_density" in asked else None,
            error=arrays["error"].reshape(shape) if "error" in asked else None,
            diagnostics=self._diagnostics(
                method.mode,
                float(torch.cat(touched).double().mean()),
                start,
                expected_accuracy_db=plan.accuracy_db if plan and method.mode == "hybrid" else None,
                certified=float((arrays["error"] <= tolerance).mean()) if certified else None,
                refinement=refinement,
            ),
        )

    def expected_db(self, y: ArrayLike, *, sigma: ArrayLike, mask: ArrayLike | None = None) -> float:
        """The PSNR in dB that quality "best" gave at such noise when it was calibrated.

        −∞ where that is not known, and where the index takes no such measurement.

        Raises
        ------
        InvalidArgument
            An argument is not as for `reconstruct`.
        """
        measurement = as_measurement(y, sigma, mask, self.index.manifest.channels)
        pictures = self.index.manifest.pictures
        levelled = self.index.strata.constants is not None
        if pictures is None or (levelled and measurement.sigma is None):
            return -math.inf
        return pictures.expected_db(_typical_sigma(measurement))

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
        """Name the training patches that weigh most in one pixel of LE-MMSE, from the sum over all keys.

        Parameters
        ----------
        y, sigma, mask, cancelled
            As for `reconstruct`.
        pixel : (int, int)
            Row and column in y.
        top : int
            How many to name, >= 1; of fewer, all. Of equal keys each counts.

        Raises
        ------
        InvalidArgument
            An argument is not as described.
        Cancelled
            `cancelled()` was true.
        """
        start = time.perf_counter()
        measurement = as_measurement(y, sigma, mask, self.index.manifest.channels)
        row, column = as_pixel(pixel, measurement.y.shape)
        top = min(as_count("top", top), self.index.manifest.keys)
        want = Want(top=min(top, self.index.manifest.distinct))
        n = np.array([row * measurement.y.shape[1] + column])
        sums = cut_queries(self._backend, measurement).sums(n, _EXACT, want, cancelled)
        posterior = sums.posterior(self.index.manifest.channels)
        heaviest = zip(posterior.top_key[0].tolist(), posterior.top_weight[0].tolist(), strict=True)
        named = (
            contributor
            for key, weight in heaviest
            if key >= 0
            for contributor in self._contributors(key, weight, top, cancelled)
        )
        return Explanation(
            contributors=tuple(islice(named, top)),
            diagnostics=self._diagnostics("exact", float(sums.touched[0]), start),
        )

    def _best(self, measurement: Measurement) -> Refinement:
        """What was found best for the noise of a measurement."""
        manifest = self.index.manifest
        if not self.index.problem.denoises:
            return PAPER  # there is nothing else
        if manifest.pictures is None:
            raise InvalidArgument.of(
                "quality", f"expected paper, since index {self.index.name!r} was not calibrated; calibrate it"
            )
        return manifest.pictures.best(_typical_sigma(measurement))

    def _plan(self, sigma: float | None, accuracy_db: float) -> OperatingPoint | None:
        """How hybrid reaches an agreement, where it was measured."""
        calibration = self.index.manifest.calibration
        return None if calibration is None or sigma is None else calibration.plan(sigma, accuracy_db)

    def _overlap(self, shape: tuple[int, int, int], maps: frozenset[str]) -> Overlap:
        """An image (H, W, C) that is to be the mean of overlapping patches."""
        self._backend.require_clean_keys("aggregate", "overlap")
        height, width, _ = shape
        pixels = np.arange(height * width).reshape(height, width, 1)
        return Overlap(shape, maps, lambda n: self._backend.patches(pixels, n))

    def _chosen(
        self,
        method: Method,
        view: ImageQueries,
        plan: OperatingPoint | None,
        accuracy_db: float,
        want: Want,
        certified: bool,
    ) -> Method:
        """The method as it will run: see docs/mathematics.md for what auto chooses."""
        mode = method.mode
        if mode == "auto":
            cheap = view.work * self.index.patch_length <= self.exact_work
            hopeless = plan is not None and (plan.accuracy_db < accuracy_db or plan.cost >= 1)
            mode = "exact" if cheap or hopeless else "hybrid"
        # The axes of groups are not those of pixels: there is no extent of a group in these, nor a posterior
        # mean of its patches where each has a precision; nor, ever, the variances of their pixels.
        beyond = (certified or want.patch) and view.sigma is None
        beyond = beyond or (want.patch and (certified or want.variance))
        if mode == "hybrid" and (beyond or self._backend.device.type != "cpu"):
            mode = "exact"  # the loops are those of the CPU
        if plan is None:
            at_0, for_each = _UNCALIBRATED if view.sigma else _WEIGHTED
            return replace(method, mode=mode, threshold=at_0 + for_each * accuracy_db)
        scale = plan.overlap_error_scale if want.patch else plan.error_scale
        return replace(method, mode=mode, threshold=plan.threshold, error_scale=scale)

    def _posterior(
        self,
        view: ImageQueries,
        n: NDArray[np.int64],
        method: Method,
        want: Want,
        certify_db: float | None,
        cancelled: Cancel,
    ) -> tuple[Posterior, Tensor]:
        """The posterior of the clean pixels at positions n, and the keys that were touched for each."""
        posterior, touched = self._of_targets(view, n, method, want, certify_db, cancelled)
        return view.clean(posterior, n), touched

    def _of_targets(
        self,
        view: ImageQueries,
        n: NDArray[np.int64],
        method: Method,
        want: Want,
        certify_db: float | None,
        cancelled: Cancel,
    ) -> tuple[Posterior, Tensor]:
        """The posterior of the targets of the keys."""
        channels = self.index.manifest.channels
        sums = view.sums(
            n, method, replace(want, variance=want.variance or certify_db is not None), cancelled
        )
        posterior = sums.posterior(channels)
        if method.mode != "hybrid":
            return posterior, sums.touched
        low, high = self._backend.extent.low, self._backend.extent.high
        if view.gaussian_share:
            low, high = torch.full_like(low, -math.inf), torch.full_like(high, math.inf)
        # The moments of a group may lead beyond the targets that it has; no mean lies beyond all targets.
        posterior = replace(posterior, mean=torch.clamp(posterior.mean, low, high))
        if certify_db is None or view.sigma is None:
            return replace(posterior, error=posterior.error * method.error_scale + _ROUNDING), sums.touched
        certifying = method.certifying(certify_db, self.index.manifest.distinct)
        bounded = view.sums(n, certifying, Want(bounds=True), cancelled, posterior.mean)
        bound = bounded.posterior(channels).error_bound
        # In float32 log w is off by some units in its last place, here as in the sum over all keys.
        off = _UNITS * float(np.finfo(np.float32).eps) * (1 + self.index.patch_length) / view.sigma**2
        bound = bound + math.expm1(min(off, 1.0)) * (posterior.variance.sqrt() + bound)
        # Whatever the keys that were not looked at hold, no mean leaves the range of the targets.
        widest = torch.maximum(posterior.mean - low, high - posterior.mean)
        error = torch.minimum(bound, widest) + _ROUNDING
        return replace(posterior, error=error), sums.touched + bounded.touched

    def _whole(
        self, measurement: Measurement, estimator: str, want: Want, cancelled: Cancel
    ) -> tuple[Posterior, Tensor]:
        """The posterior of whole images: one query, whose target is the whole image."""
        sums = self._whole_images.sums(
            measurement.y,
            measurement.precision,
            equivariant=estimator == "e-mmse",
            want=want,
            cancelled=cancelled,
        )
        t_length = measurement.y.size
        return sums.certain(t_length, want, None).posterior(t_length), sums.touched

    def _contributors(self, key: int, weight: float, most: int, cancelled: Cancel) -> Iterator[Contributor]:
        """The training patches that have a key, of which each has this weight, `most` at most."""
        start, stop = self.index.patch_range(key)
        copies = start, min(stop, start + most)
        symmetries = self.index.symmetries(*copies).tolist()
        for (image, row, column), symmetry in zip(self.index.ids(*copies).tolist(), symmetries, strict=True):
            stop_if(cancelled)
            value = tuple(self.index.pixel(image, row, column).tolist())
            yield Contributor(
                image, self.index.labels[image], row, column, weight, value, SYMMETRIES[symmetry]
            )

    def _diagnostics(
        self,
        mode: str,
        keys_touched: float,
        start: float,
        expected_accuracy_db: float | None = None,
        certified: float | None = None,
        refinement: Refinement = PAPER,
    ) -> Diagnostics:
        return Diagnostics(
            mode=mode,
            index=self.index.name,
            version=self.index.version,
            keys=self.index.manifest.keys,
            keys_touched=keys_touched,
            seconds=time.perf_counter() - start,
            expected_accuracy_db=expected_accuracy_db,
            certified=certified,
            aggregate=refinement.aggregate,
            bandwidth=refinement.bandwidth,
            gaussian_share=refinement.gaussian_share,
        )


def _typical_sigma(measurement: Measurement) -> float:
    """The root mean square of the noise where something was observed."""
    seen = measurement.precision[measurement.precision > 0]
    return measurement.sigma or (float(np.sqrt((1 / seen).mean())) if seen.size else 1.0)


def _blocks(positions: int) -> Iterator[NDArray[np.int64]]:
    """All positions, some at a time."""
    return (np.arange(i, min(i + _BLOCK, positions)) for i in range(0, positions, _BLOCK))


def _backend_of(index: Index, device: str, scheduler: str | None) -> Backend:
    """The training patches, here or on workers."""
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
