"""From a measurement to a reconstruction: z = B y, its patches as queries, x̂[n] = φ*(Π_n z)."""

import math
import time
from collections.abc import Collection, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lemmse.estimator.arguments import as_count, as_image, as_maps, as_mode, as_pixel, as_sigma
from lemmse.estimator.exact import exact_sums
from lemmse.estimator.keys import load_keys
from lemmse.estimator.results import Contributor, Diagnostics, Explanation, Reconstruction
from lemmse.estimator.sums import Posterior, PosteriorSums, Want
from lemmse.estimator.topk import Neighbours, topk_sums
from lemmse.estimator.work import Cancel, never
from lemmse.index import Images, Index
from lemmse.index.errors import InvalidArgument

__all__ = ["DEFAULT_EXACT_WORK", "DEFAULT_K", "DEFAULT_NPROBE", "Reconstructor"]

DEFAULT_EXACT_WORK = 1e11
"""Multiply-adds, Q·M·P, up to which `auto` sums all keys: some seconds on two cores."""
DEFAULT_K = 1000
"""Neighbours that `topk` sums unless told otherwise."""
DEFAULT_NPROBE = 32
"""Cells that `topk` searches unless told otherwise."""
_BLOCK = 16_384
"""Query patches cut at a time."""


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
        self._device = _as_device(device)
        self._keys = load_keys(index, self._device)
        self._neighbours = Neighbours(index.neighbours)

    def reconstruct(
        self,
        y: ArrayLike,
        *,
        sigma: float,
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
        sigma : float
            Noise standard deviation, in intensity units, in [1e-6, 1e6].
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
        arXiv 2601.10334, the LE-MMSE estimator.
        """
        start = time.perf_counter()
        sigma = as_sigma(sigma)
        image = as_image(y, self.index.manifest.channels, sigma)
        mode = as_mode(mode)
        k = as_count("k", DEFAULT_K if k is None else k)
        nprobe = as_count("nprobe", DEFAULT_NPROBE if nprobe is None else nprobe)
        asked = as_maps(maps)
        queries = Images.stack([self.index.problem.pre_invert(image)])
        if mode == "auto":
            work = queries.positions * self._keys.count * self._keys.p_length
            mode = "exact" if work <= self.exact_work else "topk"
        want = Want(variance="variance" in asked, ess="ess" in asked)

        touched = 0
        blocks: list[dict[str, NDArray[np.float32]]] = []
        for u in self._blocks(queries):
            if mode == "exact":
                sums = exact_sums(self._keys, u, sigma, want, cancelled)
            else:
                sums = topk_sums(
                    self._keys, self._neighbours, u, sigma, k=k, nprobe=nprobe, want=want, cancelled=cancelled
                )
            touched += int(sums.touched.sum())
            blocks.append(_as_arrays(self._posterior(sums, sigma), asked))
        arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        shape = np.shape(y)
        return Reconstruction(
            image=arrays["image"].reshape(shape),
            variance=arrays["variance"].reshape(shape) if "variance" in asked else None,
            ess=arrays["ess"].reshape(shape[:2]) if "ess" in asked else None,
            log_density=arrays["log_density"].reshape(shape[:2]) if "log_density" in asked else None,
            diagnostics=self._diagnostics(mode, touched / queries.positions, start),
        )

    def explain(
        self,
        y: ArrayLike,
        *,
        sigma: float,
        pixel: tuple[int, int],
        top: int = 16,
        cancelled: Cancel = never,
    ) -> Explanation:
        """Name the training patches that weigh most in one pixel, from the sum over all keys.

        Parameters
        ----------
        y, sigma, cancelled
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
        sigma = as_sigma(sigma)
        image = as_image(y, self.index.manifest.channels, sigma)
        row, column = as_pixel(pixel, image.shape)
        want = Want(top=min(as_count("top", top), self._keys.count))
        queries = Images.stack([self.index.problem.pre_invert(image)])
        u = self._patches(queries, np.array([row * image.shape[1] + column]))
        posterior = self._posterior(exact_sums(self._keys, u, sigma, want, cancelled), sigma)
        return Explanation(
            contributors=tuple(
                self._contributor(key, weight)
                for key, weight in zip(
                    posterior.top_key[0].tolist(), posterior.top_weight[0].tolist(), strict=True
                )
            ),
            diagnostics=self._diagnostics("exact", self._keys.count, start),
        )

    def _blocks(self, queries: Images[np.float32]) -> Iterator[Tensor]:
        """The query patches of all positions, some (Q, P) at a time."""
        for start in range(0, queries.positions, _BLOCK):
            yield self._patches(queries, np.arange(start, min(start + _BLOCK, queries.positions)))

    def _patches(self, queries: Images[np.float32], n: NDArray[np.integer]) -> Tensor:
        return torch.from_numpy(queries.patches(n, self.index.manifest.patch_size)).to(self._device)

    def _posterior(self, sums: PosteriorSums, sigma: float) -> Posterior:
        # The normalising constant of N(v, σ² I) in P dimensions, and 1/M.
        log_norm = -0.5 * self._keys.p_length * math.log(2 * math.pi * sigma**2) - math.log(self._keys.count)
        return sums.posterior(self._keys.t_length, log_norm)

    def _contributor(self, key: int, weight: float) -> Contributor:
        image, row, column = self.index.ids(key, key + 1)[0].tolist()
        value = tuple(self.index.targets(key, key + 1)[0].tolist())
        return Contributor(image, self.index.labels[image], row, column, weight, value)

    def _diagnostics(self, mode: str, keys_touched: float, start: float) -> Diagnostics:
        return Diagnostics(
            mode=mode,
            index=self.index.name,
            version=self.index.version,
            keys=self._keys.count,
            keys_touched=keys_touched,
            seconds=time.perf_counter() - start,
        )


def _as_arrays(posterior: Posterior, asked: frozenset[str]) -> dict[str, NDArray[np.float32]]:
    """The image and the maps that were asked for, a row for each query."""
    tensors = {"image": posterior.mean} | {name: getattr(posterior, name) for name in asked}
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
