"""From a measurement to a reconstruction: the way through the estimators, and what comes back."""

import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lemmse.estimator.arguments import (
    Measurement,
    as_count,
    as_estimator,
    as_maps,
    as_measurement,
    as_mode,
    as_pixel,
)
from lemmse.estimator.local import Local, Method
from lemmse.estimator.results import Contributor, Diagnostics, Explanation, Reconstruction
from lemmse.estimator.sums import Posterior, PosteriorSums, Want
from lemmse.estimator.whole import WholeImages
from lemmse.estimator.work import Cancel, never
from lemmse.index import Index
from lemmse.index.errors import InvalidArgument
from lemmse.index.sources import intensities

__all__ = ["DEFAULT_EXACT_WORK", "DEFAULT_K", "DEFAULT_NPROBE", "Reconstructor"]

DEFAULT_EXACT_WORK = 1e11
"""Multiply-adds, Q·M·P, up to which `auto` sums all keys: some seconds on two cores."""
DEFAULT_K = 1000
"""Neighbours that `topk` sums unless told otherwise."""
DEFAULT_NPROBE = 32
"""Cells that `topk` searches unless told otherwise."""
_BLOCK = 16_384
"""Query patches cut at a time."""
_EXACT = Method("exact", DEFAULT_K, DEFAULT_NPROBE)


class Reconstructor:
    """An index, ready to answer; several threads may call it at once.

    Parameters
    ----------
    index : Index
        Where the training patches come from. Its keys are read into memory.
    device : str
        "cpu", "cuda" or "cuda:N"; "auto" is a GPU where torch sees one.
    exact_work : float
        Multiply-adds up to which mode "auto" is exact: the product of the number of pixels to reconstruct,
        the number of keys M and the patch length P. Beyond, it is topk.

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

    def __init__(self, index: Index, *, device: str = "auto", exact_work: float = DEFAULT_EXACT_WORK) -> None:
        self.index = index
        self.exact_work = exact_work
        self._local = Local(index, _as_device(device))

    @cached_property
    def _whole(self) -> WholeImages:
        """The training images, for the estimators that compare whole images."""
        images = self.index.images()
        if len(np.unique(images.sizes, axis=0)) > 1:
            raise InvalidArgument(
                "estimator", "expected an index of images of one size for mmse and e-mmse, got several sizes"
            )
        problem = self.index.problem
        clean = intensities(images.pixels).reshape(len(images), *images[0].shape)
        measured = clean if problem.physics == "identity" else np.stack([problem.measure(x) for x in clean])
        scale = None if problem.stationary else problem.scale(clean[0].shape)
        return WholeImages(clean, measured, self._local.device, scale=scale)

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
        maps: Collection[str] = (),
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
            "exact" sums all keys, "topk" the k nearest; "auto" is exact up to `exact_work`, else topk.
        k, nprobe : int, optional
            Neighbours to sum and cells to search in topk.
        maps : collection of str
            Results beside the image: "variance", "ess", "log_density".
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
        mode = as_mode(mode)
        method = Method(
            mode,
            as_count("k", DEFAULT_K if k is None else k),
            as_count("nprobe", DEFAULT_NPROBE if nprobe is None else nprobe),
        )
        asked = as_maps(maps)
        want = Want(variance="variance" in asked, ess="ess" in asked)
        height, width, channels = measurement.y.shape
        if estimator == "le-mmse":
            view = self._local.view(measurement)
            if mode == "auto":
                work = view.work * self.index.patch_length
                method = replace(method, mode="exact" if work <= self.exact_work else "topk")
            blocks = (view.sums(n, method, want, cancelled) for n in _blocks(height * width))
            t_length = channels
        else:
            if mode == "topk":
                raise InvalidArgument("mode", f"expected auto or exact for {estimator}, got topk")
            method = replace(method, mode="exact")
            blocks = (self._whole_sums(measurement, estimator, want, cancelled) for _ in range(1))
            t_length = measurement.y.size
        touched = []
        parts: list[dict[str, NDArray[np.float32]]] = []
        for sums in blocks:
            touched.append(sums.touched)
            parts.append(_as_arrays(sums.posterior(t_length), asked, channels))
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        shape = np.shape(y)
        return Reconstruction(
            image=arrays["image"].reshape(shape),
            variance=arrays["variance"].reshape(shape) if "variance" in asked else None,
            ess=arrays["ess"].reshape(shape[:2]) if "ess" in asked else None,
            log_density=arrays["log_density"].reshape(shape[:2]) if "log_density" in asked else None,
            diagnostics=self._diagnostics(method.mode, float(torch.cat(touched).double().mean()), start),
        )

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
            How many to name, >= 1; of fewer keys, all.

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
        want = Want(top=min(as_count("top", top), self.index.manifest.keys))
        n = np.array([row * measurement.y.shape[1] + column])
        sums = self._local.view(measurement).sums(n, _EXACT, want, cancelled)
        posterior = sums.posterior(self.index.manifest.channels)
        heaviest = zip(posterior.top_key[0].tolist(), posterior.top_weight[0].tolist(), strict=True)
        return Explanation(
            contributors=tuple(self._contributor(key, weight) for key, weight in heaviest if key >= 0),
            diagnostics=self._diagnostics("exact", float(sums.touched[0]), start),
        )

    def _whole_sums(
        self, measurement: Measurement, estimator: str, want: Want, cancelled: Cancel
    ) -> PosteriorSums:
        """Sums over whole images: one query, whose target is the whole image."""
        return self._whole.sums(
            measurement.y,
            measurement.precision,
            equivariant=estimator == "e-mmse",
            want=want,
            cancelled=cancelled,
        )

    def _contributor(self, key: int, weight: float) -> Contributor:
        image, row, column = self.index.ids(key, key + 1)[0].tolist()
        value = tuple(self.index.targets(key, key + 1)[0].tolist())
        return Contributor(image, self.index.labels[image], row, column, weight, value)

    def _diagnostics(self, mode: str, keys_touched: float, start: float) -> Diagnostics:
        return Diagnostics(
            mode=mode,
            index=self.index.name,
            version=self.index.version,
            keys=self.index.manifest.keys,
            keys_touched=keys_touched,
            seconds=time.perf_counter() - start,
        )


def _blocks(positions: int) -> Iterator[NDArray[np.int64]]:
    """All positions, some at a time."""
    return (np.arange(i, min(i + _BLOCK, positions)) for i in range(0, positions, _BLOCK))


def _as_arrays(posterior: Posterior, asked: frozenset[str], channels: int) -> dict[str, NDArray[np.float32]]:
    """The image and the maps that were asked for, a row for each pixel, whatever a query stands for."""
    image = posterior.mean.reshape(-1, channels)
    tensors = {"image": image}
    for name in asked:
        values = getattr(posterior, name)
        if name == "variance":
            tensors[name] = values.reshape(-1, channels)
        else:
            tensors[name] = values.reshape(-1).repeat_interleave(len(image) // len(values))
    return {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}


def _as_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidArgument(
            "device", f"expected auto, cpu or a GPU that torch sees, got {device!r}"
        ) from error
    return torch.device(device)
