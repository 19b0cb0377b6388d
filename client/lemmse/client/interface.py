"""The interface of a client, the same for a server and for index folders in this process."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.client.arguments import as_name, as_timeout, time_left
from lemmse.client.mosaic import Mosaic, is_large, settled
from lemmse.client.sampling import Sampling
from lemmse.contract.arrays import require_aligned
from lemmse.contract.batch import measurements
from lemmse.contract.errors import FailedPrecondition, InvalidArgument, LemmseError
from lemmse.contract.measurement import Measurement
from lemmse.contract.measurement_arguments import AUTO, GAUSSIAN, Gain, Mask, Range, Sigma, checked_vector
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, NoiseEstimate, Result
from lemmse.contract.tensors import FloatArray

if TYPE_CHECKING:
    from lemmse.client.admin import Admin

__all__ = ["Client", "Closable", "without_server"]


class Closable:
    """What can be closed, and says so afterwards."""

    _closed = False

    def _require_open(self) -> None:
        if self._closed:
            raise FailedPrecondition("the client is closed; connect again")


class Client(Closable, ABC):
    """A connection to indexes, returned by `connect`. Close it, or use it in a `with` statement.

    Clients are thread-safe, and can be pickled: the copy connects to the same servers, or opens the same
    folders. After an answer from a folder, processes that are started by fork cannot use folders. Methods
    raise the errors of `lemmse.client.errors`; `timeout` is the number of seconds after which a method raises
    DeadlineExceeded.

    Arguments may be arrays of NumPy, torch, CuPy, Dask, xarray and other libraries of the array API standard,
    on any device; an image and its maps are returned as arrays of the library of y.

    Images are floats in the intensities of the clean images, [0, 1], or integers that encode them in steps of
    1/255 (uint8) or 1/65535 (uint16), or any numbers with a `range` that says which stand for black and
    white. Results are float32 in the range of the image: for a uint8 image, image and error are multiplied by
    255, the variance by 255². Sigma, the gain and the bandwidth are always in intensities of [0, 1].
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; later calls raise FailedPrecondition."""
        if not self._closed:
            self._closed = True
            self._close()

    def reconstruct(
        self,
        y: ArrayLike,
        *,
        sigma: Sigma,
        noise: str = GAUSSIAN,
        gain: Gain = AUTO,
        mask: Mask = None,
        nan: str = "error",
        range: Range = None,
        index: str | None = None,
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
        exclude: Collection[str | int] = (),
        out: Any = None,
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Return the reconstruction of an image of any size: the posterior mean at every pixel.

        An image of more than 2²² pixels is reconstructed tile by tile, each with as much of its surroundings
        as its pixels depend on, and only the tiles at work are in memory. This holds for y, sigma, mask and
        out: each may be any array with a shape and an element type that takes slices, such as those of Zarr,
        Dask and `numpy.memmap`. Tiles are whole chunks where chunks have a usual size. Volumes are not
        divided: `out` and `progress` are for images.

        Parameters
        ----------
        y : array, (H, W) or (H, W, C), float, uint8 or uint16
            The measurement. Pixels that a masked array of NumPy masks were not observed. For an index of
            volumes (`IndexInfo.patch_depth` > 1), a volume (D, H, W) or (D, H, W, C).
        sigma : float, array or "auto"
            Noise standard deviation, in intensities of [0, 1], > 0: one number, a map (H, W) or (H, W, C),
            for a volume (D, H, W) or (D, H, W, C), or "auto". Then it is estimated, one for the image or one
            for each channel; this needs an index of physics identity and pre-inverse identity, and an image
            of at least the size of a patch. Of Poisson-Gaussian noise it is that in the dark, >= 0:
            a number or "auto".
        noise : str
            "gaussian", or "poisson-gaussian" for variance gain · x + sigma² at intensity x, as of counts of
            photons. The answer is that for the noise map at its own reconstruction; it takes several
            reconstructions, and what a mask needs.
        gain : float or "auto"
            Gain of Poisson-Gaussian noise, > 0, in intensities: of a camera, the numbers for a photoelectron
            over those from black to white. "auto" estimates it, as sigma.
        mask : array, optional
            Mask of the same shapes, 0 or False where y was not observed. The values of y there are
            ignored and may be NaN. Masks and maps of sigma need an index of physics identity, pre-inverse
            identity and equivariance none.
        nan : str
            "mask" takes NaN in y as pixels, or channels of pixels, that were not observed; "error" raises
            InvalidArgument for NaN that the mask does not cover.
        range : (float, float), optional
            The numbers of y that stand for black and white, as of raw images with an offset: then y may be of
            any integers or floats, and image and maps are in its numbers.
        index : str, optional
            Name of the index. It may be omitted if there is only one, or if quality is "best" and all indexes
            are calibrated, and of the same inverse problem and number of channels: then the best one for this
            image is used.
        estimator : str
            "le-mmse" weights translated training patches, "e-mmse" translated training images, "mmse"
            training images; the last two need a y of the size of the training images.
        mode : str
            "exact" sums all keys, "topk" the k nearest; "hybrid" sums as many as accuracy_db requires and
            estimates the contribution of the others; "auto" chooses by cost and accuracy.
        k, nprobe : int, optional
            Neighbours to sum and cells to search in topk, >= 1; by default 1000 and 32. If k is a tenth of
            the keys or more, all are summed, and diagnostics.mode is "exact".
        accuracy_db : float, optional
            Agreement with exact that hybrid and auto aim for, as PSNR in dB for intensities in [0, 1]; in
            (0, 120], by default 50.
        budget : int, optional
            Largest number of keys that hybrid sums for a patch, >= 1; by default there is no limit.
        maps : collection of str
            Maps to return with the image: "variance", "ess", "log_density", "error", "source". Mode topk has
            no error.
        error : str
            Kind of the map error: it bounds |image − exact| for 95 % of the pixels ("estimated") or for all
            ("certified").
        aggregate : str, optional
            "centre" takes a pixel from the posterior mean of the patch centred at it; "overlap" averages the
            posterior means of all patches that contain it, and likewise the maps ess and log_density; "epll"
            maximises the expected patch log likelihood by five such averages, and has no maps. The default
            depends on `quality`. Overlap, epll, and a bandwidth or Gaussian share above 0, need estimator
            "le-mmse" and an index of physics identity and pre-inverse identity.
        bandwidth : float, optional
            Standard deviation τ of a Gaussian around each training patch in the prior, in intensities, from 0
            to 1e6. The default depends on `quality`.
        gaussian_share : float, optional
            Weight γ in the prior, in [0, 1], of the mixture of Gaussians that was fitted to the training
            patches. The default depends on `quality`.
        quality : str
            "paper" is the formula of the reference: aggregate centre, bandwidth 0, Gaussian share 0. "best"
            is the combination of these three that calibration found best at this noise level on held-out
            training images.
        exclude : collection of str or int
            Training images to leave out, as if they were not in the index: names of sources, as in
            `Contributor.source`, or numbers. A name stands for all images of that source, also without the
            place in brackets: "faces.npy" for "faces.npy[0]" and all others of that file. The mixture of
            Gaussians and the calibration stay those of the index.
        out : array or mapping of str to array, optional
            Where to write the image, or image and maps by name: arrays of the shapes of the results that take
            assignments to slices. Integers are rounded and clipped. By default new arrays are made.
        progress : callable, optional
            Called as `progress(done, total)`, in pixels, as an image in tiles advances.
        timeout : float, optional
            Seconds to wait for the answer.

        Returns
        -------
        Result
            The image and the maps, float32 or what `out` gives, in the shape, range and kind of array of y,
            and diagnostics, among them the estimated sigma and the PSNR to expect.

        Raises
        ------
        LemmseError
            The image cannot be reconstructed; the class of the error gives the reason.

        Examples
        --------
        >>> def denoise(client, scan):  # a Zarr array of 20 000 × 20 000
        ...     image = zarr.create_array("clean.zarr", shape=scan.shape, chunks=scan.chunks, dtype="float32")
        ...     client.reconstruct(scan, sigma=0.1, out=image)

        References
        ----------
        arXiv 2601.10334, the MMSE, E-MMSE and LE-MMSE estimators.
        """
        options = Options.of(locals())
        self._require_open()
        if out is not None or progress is not None or is_large(y):
            mosaic = Mosaic(
                y,
                sigma=sigma,
                noise=noise,
                gain=gain,
                mask=mask,
                nan=nan,
                range=range,
                maps=options.maps,
                out=out,
                progress=progress,
            )
            return self.assemble(as_name(index), mosaic, options, as_timeout(timeout))
        measurement = Measurement.checked(
            y, sigma=sigma, mask=mask, nan=nan, noise=noise, gain=gain, range=range
        )
        return self._reconstruct(as_name(index), measurement, options, as_timeout(timeout))

    def reconstruct_many(
        self,
        images: Iterable[ArrayLike],
        *,
        sigma: Sigma | Iterable[Sigma],
        noise: str = GAUSSIAN,
        gain: Gain | Iterable[Gain] = AUTO,
        mask: Mask | Iterable[Mask] = None,
        nan: str = "error",
        range: Range = None,
        index: str | None = None,
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
        exclude: Collection[str | int] = (),
        timeout: float | None = None,
    ) -> Generator[Result | LemmseError, None, None]:
        """Yield the reconstructions of images, lazily and in order.

        An image that fails does not end the batch: its error is yielded in its place. An error of the whole
        batch, such as a lost connection, is raised. A few images are read ahead, and computed while the
        caller uses the results before them. When the generator is closed or garbage collected, the remaining
        images are cancelled.

        Parameters
        ----------
        images : iterable of arrays
            Measurements of any sizes, as in `reconstruct`.
        sigma, gain, mask
            As in `reconstruct`. A number, "auto", None or an array with two or more axes applies to all; a
            list, an array with one axis or any other iterable has one value for each image, in order.
        noise, nan, range, index, estimator, mode, k, nprobe, accuracy_db, budget, maps, error
            As in `reconstruct`, for all images.
        aggregate, bandwidth, gaussian_share, quality, exclude
            As in `reconstruct`, for all images.
        timeout : float, optional
            Timeout in seconds for the whole batch.

        Yields
        ------
        Result or LemmseError
            One for each image.

        Raises
        ------
        InvalidArgument
            An argument is invalid, or the number of sigmas, gains or masks is known and differs from the
            number of images.

        Examples
        --------
        >>> def save_all(client, images):
        ...     outcomes = client.reconstruct_many(images, sigma=[0.1, 0.1, 0.2])
        ...     for number, outcome in enumerate(outcomes):
        ...         if isinstance(outcome, LemmseError):
        ...             print(f"image {number}: {outcome}")
        ...         else:
        ...             np.save(f"{number}.npy", outcome.image)
        """
        options = Options.of(locals())
        self._require_open()
        batch = measurements(images, sigma, mask, nan=nan, noise=noise, gain=gain, range=range)
        return self._reconstruct_many(as_name(index), batch, options, as_timeout(timeout))

    def sample(
        self,
        /,
        shape: Sequence[int],
        *,
        count: int = 1,
        steps: int = 20,
        seed: int = 0,
        solver: str = "ddim",
        sigma_max: float = 10.0,
        sigma_min: float = 0.02,
        y: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        sigma: float = 0.0,
        index: str | Mapping[float, str] | None = None,
        progress: Callable[[int, int], None] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> NDArray[np.float32]:
        """Return images drawn from the distribution that the training patches describe.

        Noise becomes an image along the probability flow dx/dσ = (x − D(x; σ)) / σ, with the posterior mean
        D: `steps` or, for heun, 2 steps − 1 reconstructions of each image. The same arguments give the same
        images; of two counts, the first images are the same.

        Parameters
        ----------
        shape : sequence of int
            Shape of an image, (H, W) or (H, W, C), or of a volume, as in `reconstruct`; of any size.
        count : int
            Number of images, >= 1.
        steps : int
            Number of steps, 1 to 10 000.
        seed : int
            Seed of the noise, >= 0.
        solver : str
            "ddim" takes Euler steps, which are those of DDIM; "heun" takes steps of second order.
        sigma_max, sigma_min : float
            Noise level at the start, and the last one before 0, in intensities of [0, 1], from 1e-4 to 1e4.
        y : array, optional
            A measurement of the images, of shape `shape`, as in `reconstruct`: they are drawn from those that
            it allows.
        mask : array, optional
            Mask of y, 0 or False where it was not observed, as in `reconstruct`.
        sigma : float
            Noise standard deviation of y, in intensities of [0, 1]. With 0, the observed pixels of y are
            kept, and there must be a mask.
        index : str or mapping of float to str, optional
            Name of the index, or names by the noise level from which upwards each is asked, one of them 0:
            {0: "p5", 0.5: "p11"}. They must be of physics identity, pre-inverse identity and equivariance
            none, and can be omitted as in `reconstruct`.
        progress : callable, optional
            Called as `progress(done, total)`, in reconstructions.
        timeout : float, optional
            Seconds to wait for all images.
        **options
            Options of `reconstruct`, such as aggregate or exclude, for every posterior mean. The mode is
            hybrid unless it is given, or exact for an estimator other than "le-mmse".

        Returns
        -------
        array, (count, *shape), float32
            The images, in intensities of [0, 1], or in the range of y.

        Raises
        ------
        LemmseError
            There is no such image; the class of the error gives the reason.

        References
        ----------
        Y. Song et al., arXiv 2011.13456, equation 13: the probability flow. J. Song et al., arXiv 2010.02502:
        DDIM. T. Karras et al., arXiv 2206.00364: noise levels, and algorithm 1 for heun. M. Kamb, S. Ganguli,
        arXiv 2412.20292: the posterior mean given a patch as the score.

        Examples
        --------
        >>> def twice(client):  # a face, and the same face with its left half as it was measured
        ...     (face,) = client.sample((56, 46), seed=3)
        ...     mask = np.arange(46) < 23
        ...     return face, client.sample((56, 46), y=face, mask=np.tile(mask, (56, 1)), seed=4)[0]
        """
        sampling = Sampling(
            shape,
            count=count,
            steps=steps,
            seed=seed,
            solver=solver,
            sigma_max=sigma_max,
            sigma_min=sigma_min,
            y=y,
            mask=mask,
            sigma=sigma,
            index=index,
            progress=progress,
        )
        means = Options(
            **{"mode": "hybrid" if options.get("estimator", "le-mmse") == "le-mmse" else "exact"} | options
        )
        if means.maps:
            raise InvalidArgument.of(
                "maps", f"expected none for samples, got {', '.join(sorted(means.maps))}"
            )
        self._require_open()
        return self.draw(sampling, means, as_timeout(timeout))

    def explain(
        self,
        y: ArrayLike,
        *,
        sigma: Sigma,
        noise: str = GAUSSIAN,
        gain: Gain = AUTO,
        mask: Mask = None,
        nan: str = "error",
        range: Range = None,
        pixel: Sequence[int],
        top: int = 16,
        context: int | None = None,
        exclude: Collection[str | int] = (),
        index: str | None = None,
        timeout: float | None = None,
    ) -> list[Contributor]:
        """Return the training patches with the largest posterior weights at one pixel, in mode exact.

        Parameters
        ----------
        y, sigma, noise, gain, mask, nan, range, exclude, index, timeout
            As in `reconstruct`.
        pixel : (int, int) or (int, int, int)
            Row and column of the pixel in y; in a volume plane, row and column.
        top : int
            Number of patches to return, 1 to 4096.
        context : int, optional
            Return with each patch also its pixels and so many pixels around it on each side, >= 0, as
            `Contributor.crop`; those of all patches must fit into a message of 4 MiB. By default there are
            none.

        Returns
        -------
        list of Contributor
            The contributors, in descending order of weight.
        """
        self._require_open()
        measurement = Measurement.checked(
            y, sigma=sigma, mask=mask, nan=nan, noise=noise, gain=gain, range=range
        )
        options = ExplainOptions.checked(
            measurement.y.shape, pixel=pixel, top=top, context=context, exclude=exclude
        )
        return self._explain(as_name(index), measurement, options, as_timeout(timeout))

    def vjp(
        self,
        y: ArrayLike,
        *,
        sigma: Sigma,
        vector: ArrayLike,
        noise: str = GAUSSIAN,
        gain: Gain = AUTO,
        mask: Mask = None,
        nan: str = "error",
        range: Range = None,
        index: str | None = None,
        aggregate: str | None = None,
        bandwidth: float | None = None,
        gaussian_share: float | None = None,
        quality: str = "paper",
        exclude: Collection[str | int] = (),
        timeout: float | None = None,
    ) -> NDArray[np.float32]:
        """Return the vector–Jacobian product of a reconstruction: the derivative of a number made from it.

        If a loss has the derivative `vector` with respect to the image that `reconstruct` returns, the result
        is its derivative with respect to y, with the noise held fixed, also if it is estimated or depends on
        the image. It is that of mode exact, which the other modes approximate, for estimator le-mmse on an
        index of physics identity and pre-inverse identity.

        Parameters
        ----------
        y, sigma, noise, gain, mask, nan, range, index
            As in `reconstruct`; y is not cut into tiles. A server takes y, vector, mask and a map of sigma of
            4 MiB together.
        aggregate, bandwidth, gaussian_share, quality, exclude, timeout
            As in `reconstruct`.
        vector : array, shape of y
            The numbers g, one for each pixel and channel of the reconstruction, within ±1e20.

        Returns
        -------
        float32, shape of y
            Σ_i g_i ∂x̂_i / ∂y_j for each number y_j; 0 where y was not observed. For a y of integers, or with
            a range, it is the same: image and y have one unit. An array of the library of y.

        Raises
        ------
        LemmseError
            An argument is invalid, or the product cannot be computed.

        Examples
        --------
        Which pixels of y does one pixel of the reconstruction depend on, and how?

        >>> def influence(client, y, row, column):
        ...     one = np.zeros(y.shape)
        ...     one[row, column] = 1
        ...     return client.vjp(y, sigma=0.1, vector=one)
        """
        options = Options.of(locals())
        self._require_open()
        measurement = Measurement.checked(
            y, sigma=sigma, mask=mask, nan=nan, noise=noise, gain=gain, range=range
        )
        require_aligned("vector", vector, y)
        numbers = checked_vector(vector, measurement.y.shape)
        return self._vjp(as_name(index), measurement, numbers, options, as_timeout(timeout))

    def estimate_noise(
        self,
        y: ArrayLike,
        *,
        noise: str = GAUSSIAN,
        sigma: Gain = AUTO,
        gain: Gain = AUTO,
        mask: Mask = None,
        nan: str = "error",
        range: Range = None,
        index: str | None = None,
        timeout: float | None = None,
    ) -> NoiseEstimate:
        """Return the noise in an image, as `reconstruct` estimates it.

        Parameters
        ----------
        y, noise, mask, nan, range, timeout
            As in `reconstruct`. Of an image that does not fit into a message, a remote client sends the
            middle.
        sigma, gain : float or "auto"
            What is known of Poisson-Gaussian noise; "auto" is estimated.
        index : str, optional
            Name of the index, which must be of physics identity and pre-inverse identity; it may be omitted
            if there is only one.

        Returns
        -------
        NoiseEstimate
            The estimate with its standard error, in intensities of [0, 1].
        """
        self._require_open()
        measurement = Measurement.checked(
            y, sigma=sigma, mask=mask, nan=nan, noise=noise, gain=gain, range=range
        )
        if noise == GAUSSIAN and not isinstance(measurement.sigma, str):
            raise InvalidArgument.of("sigma", f"expected auto for noise {GAUSSIAN}, got {sigma!r}")
        return self._estimate_noise(as_name(index), measurement, as_timeout(timeout))

    def list_indexes(self, *, timeout: float | None = None) -> list[IndexInfo]:
        """Return the descriptions of all indexes, sorted by name."""
        self._require_open()
        return self._list_indexes(as_timeout(timeout))

    def get_index(self, name: str, *, timeout: float | None = None) -> IndexInfo:
        """Return the description of one index.

        Parameters
        ----------
        name : str
            Name of the index.
        timeout : float, optional
            Seconds to wait for the answer.

        Raises
        ------
        NotFound
            There is no index of that name.
        """
        self._require_open()
        return self._get_index(as_name(name), as_timeout(timeout))

    def assemble(self, index: str, mosaic: Mosaic, options: Options, timeout: float | None) -> Result:
        """Return the reconstruction of an image that is divided into tiles."""
        left = time_left(timeout)
        if (sample := mosaic.sample) is not None:
            mosaic.settle(self._estimate_noise(index, sample, left()))
        if options.quality == "best":
            index, options = settled(self._reconstruct(index, mosaic.probe, options, left()), options)
        mosaic.begin(self._get_index(index, left()), options)
        with closing(self._reconstruct_many(index, mosaic.measurements(), options, left())) as outcomes:
            for outcome in outcomes:
                mosaic.take(outcome)
        return mosaic.result()

    def draw(self, sampling: Sampling, options: Options, timeout: float | None) -> NDArray[np.float32]:
        """Return samples, whose posterior means are taken round by round."""
        left = time_left(timeout)
        for name in sampling.names:
            sampling.require_fit(self._get_index(name, left()))
        for asked in sampling.rounds():
            batch = iter(asked.measurements)
            with closing(self._reconstruct_many(asked.index, batch, options, left())) as outcomes:
                for outcome in outcomes:
                    sampling.take(outcome)
        return sampling.images

    @property
    def admin(self) -> "Admin":
        """Changes of the indexes of the server.

        Raises
        ------
        FailedPrecondition
            The client has index folders, or several servers: each has indexes of its own.
        """
        raise without_server("admin")

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _reconstruct(
        self, index: str, measurement: Measurement, options: Options, timeout: float | None
    ) -> Result: ...

    @abstractmethod
    def _reconstruct_many(
        self,
        index: str,
        batch: Iterator[Measurement | InvalidArgument],
        options: Options,
        timeout: float | None,
    ) -> Generator[Result | LemmseError, None, None]: ...

    @abstractmethod
    def _explain(
        self, index: str, measurement: Measurement, options: ExplainOptions, timeout: float | None
    ) -> list[Contributor]: ...

    @abstractmethod
    def _vjp(
        self,
        index: str,
        measurement: Measurement,
        vector: FloatArray,
        options: Options,
        timeout: float | None,
    ) -> NDArray[np.float32]: ...

    @abstractmethod
    def _estimate_noise(
        self, index: str, measurement: Measurement, timeout: float | None
    ) -> NoiseEstimate: ...

    @abstractmethod
    def _list_indexes(self, timeout: float | None) -> list[IndexInfo]: ...

    @abstractmethod
    def _get_index(self, name: str, timeout: float | None) -> IndexInfo: ...


def without_server(what: str) -> FailedPrecondition:
    """Return the error for what only the client of a server has."""
    return FailedPrecondition(f"{what}: expected a client of a server; this one has index folders")
