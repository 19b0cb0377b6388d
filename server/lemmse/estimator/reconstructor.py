"""The estimator of an index: what can be asked of it, and in which module each answer is made."""

import math
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Explanation, NoiseEstimate, Result
from lemmse.contract.tensors import FloatArray
from lemmse.estimator import costs
from lemmse.estimator.answers import together
from lemmse.estimator.answers.answer import answer
from lemmse.estimator.answers.derivative import differentiate
from lemmse.estimator.answers.explanation import explain
from lemmse.estimator.answers.fit import Fit, fit
from lemmse.estimator.answers.noise import estimate_of, with_known_noise
from lemmse.estimator.backend import DEFAULT_EXACT_WORK, Backend
from lemmse.estimator.cancellation import Cancel, never, raise_if_cancelled
from lemmse.estimator.distributed import DistributedBackend
from lemmse.estimator.exclusions import Exclusions, excluded_images, index_without
from lemmse.estimator.local import LocalBackend, as_device
from lemmse.estimator.observation import observe
from lemmse.index import Index

__all__ = ["Reconstructor"]


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
        def without(images: tuple[int, ...], cancelled: Cancel) -> Reconstructor:
            # It must not refer to `self`, which is closed when nothing refers to it any more.
            view = index_without(index, images, cancelled)
            if scheduler is None:
                view.load(lambda: raise_if_cancelled(cancelled))
            return Reconstructor(view, device=device, exact_work=exact_work, scheduler=scheduler)

        self.index = index
        self._backend = _open_backend(index, device, exact_work, scheduler)
        self._exclusions = Exclusions(without)
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

    @contextmanager
    def _keys_without(self, exclude: Sequence[str], cancelled: Cancel) -> Iterator[Backend]:
        """Yield the keys, without those of the training images that names stand for.

        Raises
        ------
        DataLoss
            A file of the index was changed before the end of the `with` block.
        """
        self.index.require_unchanged()
        if exclude:
            with self._exclusions.use(self.excluded(exclude), cancelled) as rest:
                yield rest._backend
        else:
            yield self._backend
        self.index.require_unchanged()

    def excluded(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the numbers of the training images that names stand for, ascending.

        Raises
        ------
        InvalidArgument
            A name stands for no image, or no image would remain.
        """
        return excluded_images(self.index, names)

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
        with self._keys_without(_patches_to_exclude(options), cancelled) as backend:
            known = with_known_noise(backend, measurement, options, cancelled)
            return answer(backend, known, options, cancelled)

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
        with self._keys_without((), cancelled) as backend:
            return together.answer_together(backend, measurements, options, cancelled)

    def joint_options(self, measurement: Measurement, options: Options) -> Options | None:
        """Return the options with which `answer_together` answers a measurement as `answer` does.

        It is None for what it does not answer: other estimators and modes, aggregate epll, noise maps, masks,
        excluded images and volumes.
        """
        return together.joint_options(self._backend, measurement, options)

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
        with self._keys_without(options.exclude, cancelled) as backend:
            known = with_known_noise(backend, measurement, Options(), cancelled)
            return explain(backend, known, options, cancelled)

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
        with self._keys_without(options.exclude, cancelled) as backend:
            backend.require_white_noise("vector", "the derivative of a reconstruction")
            known = with_known_noise(backend, measurement, options, cancelled)
            return differentiate(backend, known, vector, options, cancelled)

    def estimate_noise(self, measurement: Measurement, cancelled: Cancel = never) -> NoiseEstimate:
        """Return the noise in a measurement: σ of white noise, or what is not stated of its gain and σ.

        Raises
        ------
        InvalidArgument
            The measurement does not fit the index, or the index cannot estimate noise.
        Cancelled
            `cancelled()` was true.
        """
        with self._keys_without((), cancelled) as backend:
            return estimate_of(backend, measurement, cancelled)

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
        return fit(self._backend, measurement, options, n, cancelled)

    def expected_db(self, measurement: Measurement) -> float:
        """Return the calibrated PSNR in dB of quality "best" at the noise level of a measurement.

        It is −∞ if the index was not calibrated, or does not support such a measurement.

        Raises
        ------
        InvalidArgument
            The measurement does not fit the index.
        """
        observation = observe(self.index, measurement)
        pictures = self.index.manifest.pictures
        if pictures is None or not (observation.is_white or self.takes_maps):
            return -math.inf
        return pictures.expected_db(observation.rms_sigma)

    def pixels(self, measurement: Measurement) -> int:
        """Return the number of pixels of a measurement; in volumes, those of all planes."""
        return costs.pixels_of(self._backend, measurement)

    def work(self, measurement: Measurement, options: Options) -> float:
        """Return the expected work of `answer`, in multiply-adds of the exact sum.

        Raises
        ------
        InvalidArgument
            An image to exclude does not exist.
        """
        work = costs.request_work(self._backend, measurement, options)
        return work + self._exclusion_work(_patches_to_exclude(options))

    def explanation_work(self, measurement: Measurement, options: ExplainOptions) -> float:
        """Return the expected work of `explain_pixel`, in multiply-adds of the exact sum."""
        return costs.explanation_work(self._backend, measurement) + self._exclusion_work(options.exclude)

    def derivative_work(self, measurement: Measurement, options: Options) -> float:
        """Return the expected work of `differentiate`, in multiply-adds of the exact sum."""
        work = costs.derivative_work(self._backend, measurement, options)
        return work + self._exclusion_work(options.exclude)

    def estimate_work(self, measurement: Measurement) -> float:
        """Return the expected work of `estimate_noise`, in multiply-adds of the exact sum."""
        return costs.estimate_work(self._backend, self.pixels(measurement))

    def _exclusion_work(self, names: Sequence[str]) -> float:
        """Return the expected work of leaving training images out, done once for each set of them."""
        if not names or self.excluded(names) in self._exclusions:
            return 0.0
        return costs.exclusion_work(self._backend)


def _patches_to_exclude(options: Options) -> Sequence[str]:
    """Return the names of the images whose patches are to be left out: MMSE and E-MMSE compare no patches."""
    return options.exclude if options.estimator == "le-mmse" else ()


def _open_backend(index: Index, device: str, exact_work: float, scheduler: str | None) -> Backend:
    """Return the backend for keys in this process, or for keys on the workers of a scheduler."""
    if scheduler is None:
        return LocalBackend(index, as_device(device), most_exact_work=exact_work)
    return DistributedBackend(index, scheduler, "cpu" if device == "auto" else device, exact_work)
