"""What a client can do, the same for both kinds of connection."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterable, Iterator
from types import TracebackType
from typing import Self

from numpy.typing import ArrayLike

from lemmse.client.arguments import as_name, as_timeout
from lemmse.contract.errors import FailedPrecondition, InvalidArgument, LemmseError
from lemmse.contract.measurement import Mask, Measurement, Sigma, measurements
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, Result

__all__ = ["Client"]


class Client(ABC):
    """A connection to indexes; `connect` makes one. Close it, or use it in a `with` statement.

    Several threads may use it at once. Every method raises the errors of `lemmse.client.errors`, and takes
    as `timeout` the seconds after which it gives up with DeadlineExceeded.

    Images are floats in the intensities of the clean images, [0, 1], or encode them as uint8 in steps of
    1/255 or as uint16 in steps of 1/65535. Results are float32 in the range of the image that was given: of a
    uint8 image the mean and the error are times 255, the variance is times 255². Sigma and the bandwidth are
    always in intensities of [0, 1].
    """

    _closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; the client cannot be used any more."""
        if not self._closed:
            self._closed = True
            self._close()

    def reconstruct(
        self,
        y: ArrayLike,
        *,
        sigma: Sigma,
        mask: Mask = None,
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
        timeout: float | None = None,
    ) -> Result:
        """Reconstruct an image of any size: the posterior mean at every pixel.

        Parameters
        ----------
        y : array, (H, W) or (H, W, C), float, uint8 or uint16
            The measurement.
        sigma : float or array
            Noise standard deviation, in intensities, > 0: one number, or a map (H, W) or (H, W, C).
        mask : array, optional
            What was observed, (H, W) or (H, W, C): 0 or False where y is not to be looked at and may be NaN.
            It and maps of sigma need an index of physics and pre-inverse identity and equivariance none.
        index : str, optional
            Name of the index; not needed where there is only one, and where quality is "best" and all are
            calibrated and of the same training images and inverse problem: the best of them is taken.
        estimator : str
            "le-mmse" weights translated training patches; "e-mmse" translated training images and "mmse"
            training images, which take a y of their size.
        mode : str
            "exact" sums all keys, "topk" the k nearest, "hybrid" comes as close to exact as accuracy_db asks
            for, "auto" chooses by cost and accuracy.
        k, nprobe : int, optional
            Neighbours to sum and cells to search in topk.
        accuracy_db : float, optional
            Agreement with exact that is asked of hybrid and auto, PSNR in dB for intensities in [0, 1];
            in (0, 120], by default 50.
        budget : int, optional
            Keys to sum at most for each patch in hybrid, >= 1; by default there is no limit.
        maps : collection of str
            Results wanted beside the image: "variance", "ess", "log_density", "error"; not error in topk.
        error : str
            What the map error is: what |image − exact| is below for 95 % of pixels if "estimated", and always
            if "certified".
        aggregate : str, optional
            What a pixel is: "centre", the posterior mean of the patch centred at it; "overlap", the mean of
            those of all patches that hold it, and so are the maps ess and log_density; by default what
            quality says. Overlap, and bandwidths and shares above 0, need le-mmse and an index of physics and
            pre-inverse identity.
        bandwidth : float, optional
            Standard deviation of a Gaussian around each patch of the prior, in intensities, in [0, 1e6]; by
            default what quality says.
        gaussian_share : float, optional
            Share of the prior, in [0, 1], that the mixture of Gaussians has which was fitted to the training
            patches; these have the rest. By default what quality says.
        quality : str
            "paper" is the formula untouched: centre, a bandwidth and a share of 0; "best" takes what
            calibration found best on held-out training images at this noise.
        timeout : float, optional
            Seconds to wait for the answer.

        Returns
        -------
        Result
            The image, float32, y's shape and range; the maps; what was done.

        Raises
        ------
        LemmseError
            There is no answer; the class says why.
        """
        options = Options.of(locals())
        self._require_open()
        measurement = Measurement.checked(y, sigma=sigma, mask=mask)
        return self._reconstruct(as_name(index), measurement, options, as_timeout(timeout))

    def reconstruct_many(
        self,
        images: Iterable[ArrayLike],
        *,
        sigma: Sigma | Iterable[Sigma],
        mask: Mask | Iterable[Mask] = None,
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
        timeout: float | None = None,
    ) -> Generator[Result | LemmseError, None, None]:
        """Reconstruct images one after the other, in their order, lazily.

        An image that fails does not end the batch: its error is yielded in its place. What concerns the
        batch as a whole, such as a server that is gone, is raised. A remote client reads a few images ahead.
        Closing the generator, or leaving it to the garbage collector, cancels the rest.

        Parameters
        ----------
        images : iterable of arrays
            Measurements of any sizes, as in `reconstruct`.
        sigma, mask
            As in `reconstruct`. A number, None or an array with two or three axes is for all images. A list,
            an array with one axis or any other iterable has one number or map for each image, in order.
        index, estimator, mode, k, nprobe, accuracy_db, budget, maps, error, aggregate, bandwidth,
        gaussian_share, quality
            As in `reconstruct`, for all images.
        timeout : float, optional
            Seconds for the whole batch.

        Yields
        ------
        Result or LemmseError
            One for each image.

        Raises
        ------
        InvalidArgument
            An option cannot be meant, or there are known to be more or fewer sigmas or masks than images.

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
        batch = measurements(images, sigma, mask)
        return self._reconstruct_many(as_name(index), batch, options, as_timeout(timeout))

    def explain(
        self,
        y: ArrayLike,
        *,
        sigma: Sigma,
        mask: Mask = None,
        pixel: tuple[int, int],
        top: int = 16,
        index: str | None = None,
        timeout: float | None = None,
    ) -> list[Contributor]:
        """Name the training patches that weigh most in one pixel, from the sum over all keys.

        Parameters
        ----------
        y, sigma, mask, index, timeout
            As in `reconstruct`.
        pixel : (int, int)
            Row and column in y.
        top : int
            How many to name, 1 to 4096.

        Returns
        -------
        list of Contributor
            Heaviest first.
        """
        self._require_open()
        measurement = Measurement.checked(y, sigma=sigma, mask=mask)
        options = ExplainOptions.checked(measurement.y.shape, pixel=pixel, top=top)
        return self._explain(as_name(index), measurement, options, as_timeout(timeout))

    def list_indexes(self, *, timeout: float | None = None) -> list[IndexInfo]:
        """Describe the indexes that can be asked, in the order of their names."""
        self._require_open()
        return self._list_indexes(as_timeout(timeout))

    def get_index(self, name: str, *, timeout: float | None = None) -> IndexInfo:
        """Describe one index.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        self._require_open()
        return self._get_index(as_name(name), as_timeout(timeout))

    def _require_open(self) -> None:
        if self._closed:
            raise FailedPrecondition("the client is closed; connect again")

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
    def _list_indexes(self, timeout: float | None) -> list[IndexInfo]: ...

    @abstractmethod
    def _get_index(self, name: str, timeout: float | None) -> IndexInfo: ...
