"""The estimator of an index: from a measurement to a reconstruction and its maps."""

import math
import time
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import ArrayLike

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.aggregate import Aggregate, Centres, Overlap
from lemmse.estimator.arguments import Options, as_count, as_options, as_pixel
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel, never, raise_if_cancelled
from lemmse.estimator.distributed import DistributedBackend
from lemmse.estimator.image_queries import cut_queries
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.observation import Observation, as_observation
from lemmse.estimator.pixel_posteriors import PixelPosteriors, pixel_posteriors
from lemmse.estimator.planning import SumPlan, plan_sums, plan_whole_images, resolve_refinement
from lemmse.estimator.results import Contributor, Diagnostics, Explanation, Reconstruction
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs
from lemmse.estimator.whole_images import WholeImages
from lemmse.index import Index
from lemmse.index.images.symmetries import SYMMETRIES
from lemmse.index.sources import intensities
from lemmse.index.storage.picture_record import PAPER, Refinement

__all__ = ["DEFAULT_EXACT_WORK", "Reconstructor"]

DEFAULT_EXACT_WORK = 1e11
"""Default multiply-adds, Q·U·P, up to which mode `auto` is exact: some seconds on two cores."""


class Reconstructor:
    """The estimator of an index; several threads may call it at once.

    Parameters
    ----------
    index : Index
        The index of the training patches. On a CPU its keys are memory-mapped, on a GPU copied there.
    device : str
        "cpu", "cuda" or "cuda:N"; "auto" is a GPU where torch sees one.
    exact_work : float
        Multiply-adds up to which mode "auto" is exact: the product of the number of pixels to reconstruct,
        the number of distinct keys U and the patch length P. Beyond, it is hybrid.
    scheduler : str, optional
        Address of a Dask scheduler whose workers read the keys, each some of the shards of the index, and
        sum over them on the CPU; this process then holds no keys. All workers must see the index's folder
        under the same path. Mode "topk" is not available.

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

    def close(self) -> None:
        """Release the keys that the workers of a scheduler hold."""
        self._backend.close()

    def prepare(self) -> None:
        """Load and compile what the first requests in hybrid and topk would otherwise wait for."""
        self._backend.prepare()

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
        """Return the reconstruction of an image of any size: the posterior mean at every pixel.

        Parameters
        ----------
        y : float, (H, W) or (H, W, C)
            The measurement, in the intensities of the clean images, [0, 1].
        sigma : float or array (H, W) or (H, W, C)
            Standard deviation of the noise, in intensity units, in [1e-6, 1e6]; an array requires an index of
            physics and pre-inverse identity.
        mask : array (H, W) or (H, W, C), optional
            0 or False where nothing was observed; y is ignored there. Requires such an index. Inpainting,
            demosaicing and super-resolution by decimation are masks.
        estimator : str
            "le-mmse" compares patches; "e-mmse" whole images in all translations, "mmse" whole images.
            The latter two need y of the training images' size, and sum over all of these.
        mode : str
            "exact" sums over all keys; "topk" over the k nearest; "hybrid" over the keys that matter one by
            one and over all others by the moments of their groups; "auto" is exact up to `exact_work`, else
            hybrid.
        k, nprobe : int, optional
            Neighbours to sum and cells to search in topk, >= 1; 1000 and 32 by default.
        accuracy_db : float, optional
            Agreement of hybrid with the sum over all keys, PSNR in dB, in (0, 120]; 50 by default.
        budget : int, optional
            Largest number of keys that hybrid evaluates for a patch, >= 1; no limit by default.
        maps : collection of str
            Results beside the image: "variance", "ess", "log_density", and, except in topk, "error".
        error : str
            Kind of error map, a bound on |image − sum over all keys|: "estimated" holds for 95 % of pixels
            and channels, "certified" always.
        aggregate : str, optional
            "centre" takes every pixel from the patch centred at it; "overlap" takes the mean over all patches
            that contain it, and requires an index of physics and pre-inverse identity. With overlap, ESS and
            log density are means over these patches, and the variance is the expected squared error of the
            mean. By default that of `quality`.
        bandwidth : float, optional
            Standard deviation τ of a Gaussian about each training patch of the prior, in intensity units, in
            [0, 1e6]; other than 0 it requires such an index. By default that of `quality`.
        gaussian_share : float, optional
            Share γ of the prior, in [0, 1], of the mixture of Gaussians fitted to the training patches, which
            have the rest. Each Gaussian counts as one key in the ESS. Other than 0 it requires such an index.
            By default that of `quality`.
        quality : str
            "paper" is the formula of the paper: centre, τ = 0 and γ = 0; "best" takes the aggregate, τ and γ
            that calibration found best on held-out training images at this noise.
        cancelled : callable
            Polled between tiles of work; when it returns true, the call ends.

        Raises
        ------
        InvalidArgument
            An argument has the wrong type, shape or value, or does not fit the index.
        Cancelled
            `cancelled()` was true.

        References
        ----------
        arXiv 2601.10334, the MMSE, E-MMSE and LE-MMSE estimators.
        """
        observation = self._observe(y, sigma, mask)
        options = as_options(
            estimator=estimator,
            mode=mode,
            k=k,
            nprobe=nprobe,
            accuracy_db=accuracy_db,
            budget=budget,
            maps=maps,
            error=error,
            aggregate=aggregate,
            bandwidth=bandwidth,
            gaussian_share=gaussian_share,
            quality=quality,
        )
        return self.answer(observation, options, cancelled)

    def answer(self, observation: Observation, options: Options, cancelled: Cancel = never) -> Reconstruction:
        """Return the reconstruction of a checked observation, with checked options; see `reconstruct`."""
        start = time.perf_counter()
        refinement = resolve_refinement(self.index, observation, options)
        if options.estimator == "le-mmse":
            queries = cut_queries(self._backend, observation, refinement)
            image = self._aggregate(observation, options, refinement)
            plan = plan_sums(self._backend, queries, options, refinement, self.exact_work, cancelled)
            height, width, _ = observation.y.shape
            posteriors = pixel_posteriors(self._backend, queries, plan, height * width)
        else:
            image = Centres(self.index.manifest.channels, options.maps)
            plan = plan_whole_images(options, refinement, cancelled)
            posteriors = self._whole_image_posterior(observation, options, plan)
        keys_evaluated = _collect(posteriors, image)
        return self._reconstruction(observation, options, refinement, plan, image, keys_evaluated, start)

    def expected_db(self, y: ArrayLike, *, sigma: ArrayLike, mask: ArrayLike | None = None) -> float:
        """Return the PSNR in dB that quality "best" had in the calibration at such noise.

        It is −∞ where the index was not calibrated, and where it cannot take such a measurement.

        Raises
        ------
        InvalidArgument
            An argument is not as for `reconstruct`.
        """
        observation = self._observe(y, sigma, mask)
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
        """Return the training patches of largest weight in one pixel of LE-MMSE, from the sum over all keys.

        Parameters
        ----------
        y, sigma, mask, cancelled
            As for `reconstruct`.
        pixel : (int, int)
            Row and column in y.
        top : int
            Number of training patches to name, >= 1; all if there are fewer. Equal patches are named one by
            one.

        Raises
        ------
        InvalidArgument
            An argument has the wrong type, shape or value, or does not fit the index.
        Cancelled
            `cancelled()` was true.
        """
        start = time.perf_counter()
        manifest = self.index.manifest
        observation = self._observe(y, sigma, mask)
        row, column = as_pixel(pixel, observation.y.shape)
        top = min(as_count("top", top), manifest.keys)
        spec = SumSpec(outputs=Outputs(top=min(top, manifest.distinct)), cancelled=cancelled)
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
        return Explanation(
            contributors=tuple(islice(contributors, top)),
            diagnostics=self._diagnostics(SumPlan(spec), PAPER, float(sums.keys_evaluated[0]), start),
        )

    def _observe(self, y: ArrayLike, sigma: ArrayLike, mask: ArrayLike | None) -> Observation:
        return as_observation(y, sigma, mask, self.index.manifest.channels)

    def _aggregate(self, observation: Observation, options: Options, refinement: Refinement) -> Aggregate:
        """Return a collector of the posteriors of patches."""
        if refinement.aggregate == "centre":
            return Centres(self.index.manifest.channels, options.maps)
        self._backend.require_clean_keys("aggregate", "overlap")
        height, width, _ = shape = observation.y.shape
        positions = np.arange(height * width).reshape(height, width, 1)
        return Overlap(shape, options.maps, lambda n: self._backend.patches(positions, n))

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
        """Yield the training patches equal to a key, each of this weight, at most `most`."""
        start, stop = self.index.patches_of(key)
        patches = start, min(stop, start + most)
        symmetries = self.index.symmetries(*patches).tolist()
        for (image, row, column), symmetry in zip(self.index.ids(*patches).tolist(), symmetries, strict=True):
            raise_if_cancelled(cancelled)
            value = tuple(self.index.pixel(image, row, column).tolist())
            yield Contributor(
                image, self.index.labels[image], row, column, weight, value, SYMMETRIES[symmetry]
            )

    def _reconstruction(
        self,
        observation: Observation,
        options: Options,
        refinement: Refinement,
        plan: SumPlan,
        image: Aggregate,
        keys_evaluated: float,
        start: float,
    ) -> Reconstruction:
        arrays, shape = image.arrays(), observation.shape
        certified = None
        if options.certified:
            certified = float((arrays["error"] <= 10 ** (-options.accuracy_db / 20)).mean())
        return Reconstruction(
            image=arrays["image"].reshape(shape),
            variance=arrays["variance"].reshape(shape) if "variance" in arrays else None,
            ess=arrays["ess"].reshape(shape[:2]) if "ess" in arrays else None,
            log_density=arrays["log_density"].reshape(shape[:2]) if "log_density" in arrays else None,
            error=arrays["error"].reshape(shape) if "error" in arrays else None,
            diagnostics=self._diagnostics(plan, refinement, keys_evaluated, start, certified),
        )

    def _diagnostics(
        self,
        plan: SumPlan,
        refinement: Refinement,
        keys_evaluated: float,
        start: float,
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
            certified=certified,
            aggregate=refinement.aggregate,
            bandwidth=refinement.bandwidth,
            gaussian_share=refinement.gaussian_share,
        )


def _collect(posteriors: Iterable[PixelPosteriors], image: Aggregate) -> float:
    """Add the posteriors to an image; return the mean number of keys evaluated for a query."""
    evaluated = []
    for n, posterior, keys_evaluated in posteriors:
        image.add(posterior, n)
        evaluated.append(keys_evaluated)
    return float(torch.cat(evaluated).double().mean())


def _open_backend(index: Index, device: str, scheduler: str | None) -> Backend:
    """Return the backend for keys in this process, or on the workers of a scheduler."""
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
