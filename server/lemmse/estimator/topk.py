"""Mode topk: the posterior sums over the k nearest keys.

The result agrees with that of mode exact if the effective sample size is well below k, as at low noise, and
differs much from it at high noise. For white noise FAISS searches by Euclidean distance; with a precision for
each coordinate, the same cells are searched by weighted distance, and for sharp queries (see `queries`) in
float64.
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

from lemmse.estimator.cancellation import raise_if_cancelled
from lemmse.estimator.keys import Keys
from lemmse.estimator.queries import LOG2_E, Queries
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums
from lemmse.index.storage.inverted_lists import to_search
from lemmse.index.storage.quantization import Quantization

__all__ = ["Neighbours", "topk_sums"]

_BLOCK = 1 << 18
"""Largest number of neighbours in memory at once, for all queries of a block."""
_PATCHES = 1 << 23
"""Largest number of coordinates of neighbours in memory at once."""


class _Found(NamedTuple):
    """The nearest keys of Q queries."""

    log_w: Tensor
    """log w without normalizing constant, in descending order, float64, (Q, k)."""
    key: Tensor
    """Numbers of the keys, int64, (Q, k)."""
    keys_evaluated: Tensor
    """Number of keys evaluated, int64, (Q,)."""
    common: Tensor | float = 0.0
    """What must be added to log w, for all keys alike, (Q,) or a number."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest-neighbour search of an index."""

    index: faiss.IndexIVF
    """The inverted file, with the keys in units of the quantization step and in the order of `Keys`."""
    quantization: Quantization
    """The quantization of the keys."""
    strata_cells: NDArray[np.int64]
    """First cell of each stratum, followed by the number of cells, (S + 1,)."""

    @cached_property
    def _centroids(self) -> NDArray[np.float32]:
        centroids: NDArray[np.float32] = self.index.quantizer.reconstruct_n(0, self.index.nlist)
        return centroids

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Number of keys in each cell, with a last entry 0 for cell −1, which means no cell."""
        sizes = [self.index.invlists.list_size(cell) for cell in range(self.index.nlist)]
        return np.array([*sizes, 0], np.int64)

    @cached_property
    def _edges(self) -> NDArray[np.int64]:
        """First key of each cell, the number of keys, and a last entry for cell −1, which means no cell."""
        return np.concatenate([[0], np.cumsum(self._sizes)])

    def search(
        self, u: NDArray[np.float32], k: int, nprobe: int, stratum: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Return the k nearest keys in the nprobe nearest cells of a stratum, or in more cells if necessary.

        Parameters
        ----------
        u : float32, (Q, P)
            The whitened query patches.

        Returns
        -------
        squared distances (Q, k), numbers of the keys (Q, k), number of keys evaluated (Q,)
        """
        first, end = self.strata_cells[stratum : stratum + 2]
        u = to_search(self.quantization.steps(u), self.quantization)
        centroids = self._centroids[first:end]
        cells, evaluated = self._choose(
            lambda count: first + faiss.knn(u, centroids, count)[1], int(end - first), k, nprobe
        )
        squared = np.empty((len(u), k), np.float32)
        found = np.empty((len(u), k), np.int64)
        unused = np.zeros(cells.shape, np.float32)  # distances to cells, which do not affect those to keys
        # The Python wrapper would read the number of cells from the index, which threads share.
        self.index.search_preassigned_c(
            len(u),
            faiss.swig_ptr(u),
            k,
            *(faiss.swig_ptr(x) for x in (cells, unused, squared, found)),
            True,  # a key is returned as its cell and its place in it
            faiss.IVFSearchParameters(nprobe=cells.shape[1]),
        )
        cell, place = found >> 32, found & 0xFFFFFFFF
        squared *= np.float32(self.quantization.step**2)
        return squared, np.where(found < 0, -1, self._edges[cell] + place), evaluated

    def scan(self, keys: Keys, queries: Queries, k: int, nprobe: int, sharp: bool) -> _Found:
        """Return the k keys with the largest log w, as scored by the queries, which may be sharp."""
        u, stratum = queries.u, queries.stratum
        first, end = (int(cell) for cell in self.strata_cells[stratum : stratum + 2])
        origin = keys.scale(stratum).centre
        decoded = self.quantization.decode(self._centroids[first:end, : keys.p_length])
        centroids = torch.from_numpy(decoded).to(u.device).double() - origin
        precision = queries.precision.double().expand(u.shape)
        log_w = (precision * queries.deviation(origin)) @ centroids.T
        log_w -= 0.5 * precision @ centroids.square().T  # (Q, cells)
        cells, evaluated = self._choose(
            lambda count: first + log_w.topk(count, dim=1).indices.cpu().numpy(), end - first, k, nprobe
        )
        best = torch.full((len(u), k), -torch.inf, dtype=torch.float64, device=u.device)
        key = torch.full((len(u), k), -1, device=u.device)
        for cell in np.unique(cells[self._sizes[cells] > 0]):
            rows = torch.from_numpy(np.flatnonzero((cells == cell).any(axis=1))).to(u.device)
            some, start, stop = queries.rows(rows), int(self._edges[cell]), int(self._edges[cell + 1])
            score = some.sharp_scorer(origin) if sharp else some.scorer(stop - start)
            tile = keys.run(start, stop, origin if sharp else None)
            scores, query_terms = score(tile)
            candidates = torch.cat([best[rows], (scores + query_terms[:, None]) / LOG2_E], dim=1)
            numbers = torch.arange(tile.first, tile.first + scores.shape[1], device=u.device)
            candidate_keys = torch.cat([key[rows], numbers.expand(len(rows), -1)], dim=1)
            best[rows], order = candidates.topk(k, dim=1)
            key[rows] = candidate_keys.gather(1, order)
        common = queries.sharp_scorer(origin).common if sharp else 0.0
        return _Found(best, key, torch.from_numpy(evaluated).to(u.device), common)

    def _choose(
        self, nearest: Callable[[int], NDArray[np.int64]], count: int, k: int, nprobe: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the cells to search for each query.

        Parameters
        ----------
        nearest : callable
            Returns the n nearest cells for each query, nearest first, (Q, n).
        count : int
            Number of cells to choose from.

        Returns
        -------
        cells (Q, n), −1 where a query needs no more, and the number of keys in them (Q,)
        """
        cells = nearest(min(nprobe, count))
        evaluated = self._sizes[cells].sum(axis=1)
        if (evaluated < k).any():
            cells = nearest(count)
            # A cell is searched if the cells before it have fewer than k keys, or are fewer than nprobe.
            before = np.cumsum(self._sizes[cells], axis=1) - self._sizes[cells]
            cells[(before >= k) & (np.arange(count) >= nprobe)] = -1
            evaluated = self._sizes[cells].sum(axis=1)
        return cells, evaluated


def topk_sums(keys: Keys, neighbours: Neighbours, queries: Queries, spec: SumSpec) -> PosteriorSums:
    """Return the posterior sums over the k nearest keys of the stratum, without normalizing constants.

    Parameters
    ----------
    keys, queries
        As in `exact_sums`.
    neighbours : Neighbours
        The nearest-neighbour search among these keys.
    spec : SumSpec
        Its k, nprobe and outputs are used; the outputs must not include error or bounds.

    Raises
    ------
    Cancelled
        `spec.cancelled()` was true.
    """
    k = min(spec.k, keys.count_in(queries.stratum))
    step = max(1, min(_BLOCK, _PATCHES // keys.p_length if spec.outputs.patch else _BLOCK) // k)
    sharp = queries.sharp(keys.scale(queries.stratum))
    parts = []
    for is_sharp in (False, True):
        for rows in torch.split((sharp == is_sharp).nonzero()[:, 0], step):
            if len(rows):
                raise_if_cancelled(spec.cancelled)
                found = _nearest(keys, neighbours, queries.rows(rows), k, spec.nprobe, is_sharp)
                parts.append((rows, _sums(keys, found, spec.outputs)))
    return PosteriorSums.gather(parts)


def _nearest(
    keys: Keys, neighbours: Neighbours, queries: Queries, k: int, nprobe: int, sharp: bool
) -> _Found:
    if sharp or not queries.is_white:
        return neighbours.scan(keys, queries, k, nprobe, sharp)
    u, device = queries.u.float().cpu().numpy(), queries.u.device
    squared, key, evaluated = (
        torch.from_numpy(array).to(device) for array in neighbours.search(u, k, nprobe, queries.stratum)
    )
    return _Found(squared.double() * (-0.5 * queries.precision.double()), key, evaluated)


def _sums(keys: Keys, found: _Found, outputs: Outputs) -> PosteriorSums:
    log_w, key, evaluated, common = found
    log_max = log_w.amax(dim=1)
    w = torch.exp(log_w - log_max[:, None])
    moments = keys.moments_of(key)[..., : outputs.rows(keys.t_length)].double()  # (Q, k, rows)
    patches = moments[:, 0, :0]
    if outputs.patch:
        v = keys.patches_of(key).double()  # (Q, k, P)
        powers = [v, v.square()] if outputs.variance else [v]
        patches = torch.cat([torch.einsum("qk,qk,qkp->qp", w, moments[..., 0], x) for x in powers], dim=1)
    top = min(outputs.top, key.shape[1])
    return PosteriorSums(
        log_max=log_max,
        moments=torch.einsum("qk,qkr->qr", w, moments),
        patches=patches,
        w2=(w.square() * moments[..., 0]).sum(dim=1, keepdim=True)[:, : 1 * outputs.ess],
        error_variance=moments[:, 0, :0],
        bounds=moments[:, 0, :0],
        top_log_w=log_w[:, :top],
        top_key=key[:, :top],
        keys_evaluated=evaluated,
    ).shift(common)
