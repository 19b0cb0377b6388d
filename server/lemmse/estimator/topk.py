"""The top-k posterior: the sum over the k nearest keys.

It is the full posterior where that has few effective samples, at low noise, and far from it at high noise.
White noise is a search by Euclidean distance, which FAISS does; with a precision for each coordinate the same
cells are searched by the weighted distance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, never, stop_if
from lemmse.estimator.keys import Keys
from lemmse.estimator.queries import LOG2_E, Queries
from lemmse.estimator.sums import MEAN_ONLY, PosteriorSums, Want
from lemmse.index.storage.inverted_lists import to_search
from lemmse.index.storage.quantization import Quantization

__all__ = ["Found", "Neighbours", "topk_sums"]

_BLOCK = 1 << 18
"""Neighbours held at a time, for all queries of a block."""
_PATCHES = 1 << 23
"""Numbers of their patches held at a time."""


class Found(NamedTuple):
    """The nearest keys of Q queries."""

    log_w: Tensor
    """Without normalising constant, float64, (Q, k), in descending order."""
    key: Tensor
    """Their numbers, int64, (Q, k)."""
    touched: Tensor
    """Keys whose distance was computed, int64, (Q,)."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest-neighbour search of an index."""

    index: faiss.IndexIVF
    """Numbers the keys as `Keys` does, and has them in steps. Its distances are sums of squared differences,
    all digits kept."""
    quantization: Quantization
    """How the keys are stored."""
    strata_cells: NDArray[np.int64]
    """First cell of each stratum, and the number of cells, (S + 1,)."""

    @cached_property
    def _centroids(self) -> NDArray[np.float32]:
        centroids: NDArray[np.float32] = self.index.quantizer.reconstruct_n(0, self.index.nlist)
        return centroids

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Keys in each cell, and none in the cell −1 that stands for no cell."""
        sizes = [self.index.invlists.list_size(cell) for cell in range(self.index.nlist)]
        return np.array([*sizes, 0], np.int64)

    @cached_property
    def _edges(self) -> NDArray[np.int64]:
        """First key of each cell, their number, and what stands for no cell."""
        return np.concatenate([[0], np.cumsum(self._sizes)])

    def search(
        self, u: NDArray[np.float32], k: int, nprobe: int, stratum: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Find the k nearest keys of a stratum in its nprobe nearest cells, or in more if these have fewer.

        Returns
        -------
        squared distances (Q, k), keys (Q, k), keys whose distance was computed (Q,)
        """
        first, end = self.strata_cells[stratum : stratum + 2]
        u = to_search(self.quantization.steps(u), self.quantization)
        centroids = self._centroids[first:end]
        cells, touched = self._choose(
            lambda count: first + faiss.knn(u, centroids, count)[1], int(end - first), k, nprobe
        )
        squared = np.empty((len(u), k), np.float32)
        found = np.empty((len(u), k), np.int64)
        of_cells = np.zeros(cells.shape, np.float32)  # asked for, and not used: keys do not count from cells
        # The Python wrapper would take the number of cells from the index, which other threads share.
        self.index.search_preassigned_c(
            len(u),
            faiss.swig_ptr(u),
            k,
            *(faiss.swig_ptr(x) for x in (cells, of_cells, squared, found)),
            True,  # a key is its cell and its place there
            faiss.IVFSearchParameters(nprobe=cells.shape[1]),
        )
        cell, place = found >> 32, found & 0xFFFFFFFF
        squared *= np.float32(self.quantization.step**2)
        return squared, np.where(found < 0, -1, self._edges[cell] + place), touched

    def search_weighted(self, keys: Keys, queries: Queries, k: int, nprobe: int) -> Found:
        """Find the k keys of largest log w, where each query has a precision for each coordinate."""
        u, precision = queries.u, queries.precision
        of_cells = self.quantization.decode(self._centroids[:, : keys.p_length])
        centroids = torch.from_numpy(of_cells).to(u.device)
        log_w = (precision * u) @ centroids.T - 0.5 * precision @ centroids.square().T  # (Q, cells)
        cells, touched = self._choose(
            lambda count: log_w.topk(count, dim=1).indices.cpu().numpy(), self.index.nlist, k, nprobe
        )
        best = torch.full((len(u), k), -torch.inf, dtype=torch.float64, device=u.device)
        key = torch.full((len(u), k), -1, device=u.device)
        for cell in np.unique(cells[self._sizes[cells] > 0]):
            rows = torch.from_numpy(np.flatnonzero((cells == cell).any(axis=1))).to(u.device)
            tile = keys.run(int(self._edges[cell]), int(self._edges[cell + 1]))
            scores, of_query = queries.rows(rows).scorer(tile.features.shape[1])(tile)
            candidates = torch.cat([best[rows], (scores + of_query[:, None]) / LOG2_E], dim=1)
            numbers = torch.arange(tile.first, tile.first + scores.shape[1], device=u.device)
            candidate_keys = torch.cat([key[rows], numbers.expand(len(rows), -1)], dim=1)
            best[rows], order = candidates.topk(k, dim=1)
            key[rows] = candidate_keys.gather(1, order)
        return Found(best, key, torch.from_numpy(touched).to(u.device))

    def _choose(
        self, nearest: Callable[[int], NDArray[np.int64]], count: int, k: int, nprobe: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose the cells to search.

        Parameters
        ----------
        nearest : callable
            Gives so many of the nearest cells of each query, in order, (Q, n).
        count : int
            Number of cells to choose from.

        Returns
        -------
        cells (Q, n), −1 where a query needs no more, and the number of keys in them (Q,)
        """
        cells = nearest(min(nprobe, count))
        touched = self._sizes[cells].sum(axis=1)
        if (touched < k).any():
            cells = nearest(count)
            # A cell is searched while those before it hold fewer than k keys, or number fewer than nprobe.
            before = np.cumsum(self._sizes[cells], axis=1) - self._sizes[cells]
            cells[(before >= k) & (np.arange(count) >= nprobe)] = -1
            touched = self._sizes[cells].sum(axis=1)
        return cells, touched


def topk_sums(
    keys: Keys,
    neighbours: Neighbours,
    queries: Queries,
    *,
    k: int,
    nprobe: int,
    stratum: int = 0,
    want: Want = MEAN_ONLY,
    cancelled: Cancel = never,
) -> PosteriorSums:
    """Sum the weights of the k nearest keys of a stratum for each query, without normalising constants.

    Parameters
    ----------
    keys, queries, stratum, want, cancelled
        As for `exact_sums`.
    neighbours : Neighbours
        The search of the keys.
    k : int
        Neighbours to sum, >= 1; of fewer keys, all.
    nprobe : int
        Cells to search, >= 1; a query whose cells hold fewer than k keys searches as many more as it takes.

    Raises
    ------
    Cancelled
        `cancelled()` was true.
    """
    k = min(k, keys.count_in(stratum))
    step = max(1, min(_BLOCK, _PATCHES // keys.p_length if want.patch else _BLOCK) // k)
    parts = []
    for start in range(0, len(queries), step):
        stop_if(cancelled)
        block = queries.rows(slice(start, start + step))
        if block.is_white:
            squared, found, touched = neighbours.search(block.u.cpu().numpy(), k, nprobe, stratum)
            device = block.u.device
            log_w = torch.from_numpy(squared).to(device).double() * (-0.5 * block.precision.double())
            nearest = Found(log_w, torch.from_numpy(found).to(device), torch.from_numpy(touched).to(device))
        else:
            nearest = neighbours.search_weighted(keys, block, k, nprobe)
        parts.append(_sums(keys, nearest, want))
    return PosteriorSums.join(parts)


def _sums(keys: Keys, nearest: Found, want: Want) -> PosteriorSums:
    log_w, key, touched = nearest
    log_max = log_w.amax(dim=1)
    w = torch.exp(log_w - log_max[:, None])
    moments = keys.moments_of(key)[..., : want.rows(keys.t_length)].double()  # (Q, k, rows)
    patches = moments[:, 0, :0]
    if want.patch:
        v = keys.patches_of(key).double()  # (Q, k, P)
        powers = [v, v.square()] if want.variance else [v]
        patches = torch.cat([torch.einsum("qk,qk,qkp->qp", w, moments[..., 0], x) for x in powers], dim=1)
    top = min(want.top, key.shape[1])
    return PosteriorSums(
        log_max=log_max,
        moments=torch.einsum("qk,qkr->qr", w, moments),
        patches=patches,
        w2=(w.square() * moments[..., 0]).sum(dim=1, keepdim=True)[:, : 1 * want.ess],
        doubt=moments[:, 0, :0],
        bounds=moments[:, 0, :0],
        top_log_w=log_w[:, :top],
        top_key=key[:, :top],
        touched=touched,
    )
