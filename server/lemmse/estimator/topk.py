"""Mode topk: the posterior sums over the k nearest keys.

The result agrees with that of mode exact if the effective sample size is well below k, as at low noise, and
differs much from it at high noise. For white noise FAISS searches by Euclidean distance, query by query.
With a precision for each coordinate, cells are scanned: a matrix product gives the scores of a cell for all
queries that search it. So they are for white noise if one query alone would keep FAISS, which cannot be
cancelled, for too long; and for sharp queries (see `queries`), in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, raise_if_cancelled
from lemmse.estimator.heaviest import Heaviest
from lemmse.estimator.keys import Keys
from lemmse.estimator.queries import LOG2_E, Queries
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums
from lemmse.index.storage.inverted_lists import to_search
from lemmse.index.storage.quantization import Quantization

__all__ = ["Neighbours", "topk_sums"]

_BLOCK = 512
"""Largest number of queries for which cells are chosen at once."""
_COORDINATES = 1 << 26
"""Largest number of coordinates of candidates, of all queries, that FAISS visits between two polls: 25 ms."""
_NEIGHBOURS = 1 << 16
"""Largest number of neighbours, of all queries, that are summed between two polls: 25 ms."""
_PATCHES = 1 << 22
"""Largest number of coordinates of neighbours in memory at once."""
_ROOM = 8192
"""Number of keys that wait in a scan, at least."""
_WAITING = 1 << 20
"""Largest number of keys that wait in a scan, of all queries: 25 ms to select from."""


class _Found(NamedTuple):
    """The nearest keys of Q queries."""

    log_w: Tensor
    """log w without normalizing constant, in descending order, float64, (Q, k)."""
    key: Tensor
    """Numbers of the keys, int64, (Q, k)."""


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

    @property
    def longest_cell(self) -> int:
        """Number of keys in the largest cell."""
        return int(self._sizes.max())

    def count_in(self, stratum: int) -> int:
        """Return the number of cells of a stratum."""
        return int(self.strata_cells[stratum + 1] - self.strata_cells[stratum])

    def choose(
        self, keys: Keys, queries: Queries, k: int, nprobe: int, *, sharp: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the cells to search: the nprobe nearest of the stratum, and more until they have k keys.

        Parameters
        ----------
        keys : Keys
            The keys.
        queries : Queries
            The whitened query patches, (Q, P), which may be sharp.
        k, nprobe : int
            At most the numbers of keys and of cells of the stratum.
        sharp : bool
            Whether the queries are sharp.

        Returns
        -------
        cells (Q, n), −1 where a query needs no more, and the number of keys in them (Q,)
        """
        nearest = self._nearest(keys, queries, sharp)
        cells = nearest(nprobe)
        evaluated = self._sizes[cells].sum(axis=1)
        if (evaluated < k).any():
            count = self.count_in(queries.stratum)
            cells = nearest(count)
            # A cell is searched if the cells before it have fewer than k keys, or are fewer than nprobe.
            before = np.cumsum(self._sizes[cells], axis=1) - self._sizes[cells]
            cells[(before >= k) & (np.arange(count) >= nprobe)] = -1
            evaluated = self._sizes[cells].sum(axis=1)
        return cells, evaluated

    def _nearest(self, keys: Keys, queries: Queries, sharp: bool) -> Callable[[int], NDArray[np.int64]]:
        """Return a function that returns the n nearest cells for each query, nearest first, (Q, n)."""
        first, end = self.strata_cells[queries.stratum : queries.stratum + 2]
        u, origin = queries.u, keys.scale(queries.stratum).centre
        if queries.is_white and not sharp:
            steps = self._steps(u)
            return lambda n: first + faiss.knn(steps, self._centroids[first:end], n)[1]
        decoded = self.quantization.decode(self._centroids[first:end, : u.shape[1]])
        centroids = torch.from_numpy(decoded).to(u.device).double() - origin
        precision = queries.precision.double().expand(u.shape)
        log_w = (precision * queries.deviation(origin)) @ centroids.T
        log_w -= 0.5 * precision @ centroids.square().T  # (Q, cells)
        return lambda n: first + log_w.topk(n, dim=1).indices.cpu().numpy()

    def _steps(self, u: Tensor) -> NDArray[np.float32]:
        """Return query patches as FAISS compares them with the keys."""
        return to_search(self.quantization.steps(u.float().cpu().numpy()), self.quantization)

    def search(self, queries: Queries, cells: NDArray[np.int64], k: int) -> _Found:
        """Return the k nearest keys in some cells for each query with white noise, (Q, n)."""
        steps, cells = self._steps(queries.u), np.ascontiguousarray(cells)
        squared = np.empty((len(queries), k), np.float32)
        found = np.empty((len(queries), k), np.int64)
        unused = np.zeros(cells.shape, np.float32)  # distances to cells, which do not affect those to keys
        # The Python wrapper would read the number of cells from the index, which threads share.
        self.index.search_preassigned_c(
            len(queries),
            faiss.swig_ptr(steps),
            k,
            *(faiss.swig_ptr(x) for x in (cells, unused, squared, found)),
            True,  # a key is returned as its cell and its place in it
            faiss.IVFSearchParameters(nprobe=cells.shape[1]),
        )
        key = np.where(found < 0, -1, self._edges[found >> 32] + (found & 0xFFFFFFFF))
        squared *= np.float32(self.quantization.step**2)
        precision, device = queries.precision.double(), queries.u.device
        return _Found(
            torch.from_numpy(squared).to(device).double() * (-0.5 * precision),
            torch.from_numpy(key).to(device),
        )

    def scan(
        self,
        keys: Keys,
        queries: Queries,
        cells: NDArray[np.int64],
        k: int,
        *,
        sharp: bool,
        cancelled: Cancel,
    ) -> _Found:
        """Return the k keys with the largest log w in some cells for each query, (Q, n).

        Of sharp queries, log w is without what all keys have in common.

        Raises
        ------
        Cancelled
            `cancelled()` was true; it is polled for every cell.
        """
        device, origin = queries.u.device, keys.scale(queries.stratum).centre
        heaviest = Heaviest(len(queries), k=k, room=_room(self, k), device=device)
        asked = np.zeros((len(queries), len(self._sizes)), bool)
        np.put_along_axis(asked, cells, True, axis=1)
        for cell in np.flatnonzero(asked.any(axis=0) & (self._sizes > 0)):
            raise_if_cancelled(cancelled)
            rows = torch.from_numpy(np.flatnonzero(asked[:, cell])).to(device)
            some, start, stop = queries.rows(rows), int(self._edges[cell]), int(self._edges[cell + 1])
            score = some.sharp_scorer(origin) if sharp else some.scorer(stop - start)
            scores, query_terms = score(keys.run(start, stop, origin if sharp else None))
            heaviest.add(rows, (scores + query_terms[:, None]) / LOG2_E, start)
        return _Found(*heaviest.sorted())


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
    sharp, parts = queries.sharp(keys.scale(queries.stratum)), []
    for is_sharp in (False, True):
        rows = (sharp == is_sharp).nonzero()[:, 0]
        if len(rows):
            parts.append((rows, _sums_alike(keys, neighbours, queries.rows(rows), spec, is_sharp)))
    return PosteriorSums.gather(parts)


def _sums_alike(
    keys: Keys, neighbours: Neighbours, queries: Queries, spec: SumSpec, sharp: bool
) -> PosteriorSums:
    """Return the sums for queries of which all are sharp, or none."""
    count = neighbours.count_in(queries.stratum)
    k, nprobe = min(spec.k, keys.count_in(queries.stratum)), min(spec.nprobe, count)
    expected = max(k, nprobe * keys.count_in(queries.stratum) // count)
    scans = sharp or not queries.is_white or expected * keys.p_length > _COORDINATES
    step = max(1, min(_BLOCK, _WAITING // (k + _room(neighbours, k)))) if scans else _BLOCK
    parts = []
    for start in range(0, len(queries), step):
        raise_if_cancelled(spec.cancelled)
        block = queries.rows(slice(start, start + step))
        cells, evaluated = neighbours.choose(keys, block, k, nprobe, sharp=sharp)
        if scans:
            found = neighbours.scan(keys, block, cells, k, sharp=sharp, cancelled=spec.cancelled)
            common = block.sharp_scorer(keys.scale(block.stratum).centre).common if sharp else 0.0
            parts.append(_sums(keys, found, evaluated, spec).shift(common))
            continue
        for rows in _shares(evaluated * keys.p_length / _COORDINATES + k / _NEIGHBOURS):
            raise_if_cancelled(spec.cancelled)
            found = neighbours.search(block.rows(rows), cells[rows], k)
            parts.append(_sums(keys, found, evaluated[rows], spec))
    return PosteriorSums.join(parts)


def _room(neighbours: Neighbours, k: int) -> int:
    """Return the number of keys that wait in a scan: the more, the less often k keys are selected."""
    return max(k, neighbours.longest_cell, _ROOM)


def _shares(work: NDArray[np.float64]) -> Iterator[slice]:
    """Yield ranges of the queries, each of which but its last query has a total work of less than 1."""
    share = np.floor(np.cumsum(work) - work)
    edges = np.flatnonzero(np.diff(share)) + 1
    return (slice(start, stop) for start, stop in pairwise([0, *edges.tolist(), len(work)]))


def _sums(keys: Keys, found: _Found, evaluated: NDArray[np.int64], spec: SumSpec) -> PosteriorSums:
    """Return the sums over the keys found, for queries for which so many were evaluated, (Q,)."""
    queries, k = found.key.shape
    outputs, device = spec.outputs, found.key.device
    most = min(_NEIGHBOURS, _PATCHES // keys.p_length) if outputs.patch else _NEIGHBOURS
    step = max(1, most // queries)
    sums = PosteriorSums.empty(queries, keys.t_length, keys.p_length, outputs, device)
    for start in range(0, k, step):
        raise_if_cancelled(spec.cancelled)
        part = _Found(*(array[:, start : start + step] for array in found))
        sums = sums.merge(_part_sums(keys, part, outputs))
    return replace(sums, keys_evaluated=torch.from_numpy(evaluated).to(device))


def _part_sums(keys: Keys, found: _Found, outputs: Outputs) -> PosteriorSums:
    log_w, key = found
    log_max = log_w.amax(dim=1)
    w = torch.exp(log_w - log_max[:, None])
    moments = keys.moments_of(key)[..., : outputs.rows(keys.t_length)].double()  # (Q, k, rows)
    patches = moments[:, 0, :0]
    if outputs.patch:
        v, n_w = keys.patches_of(key).double(), w * moments[..., 0]  # (Q, k, P), (Q, k)
        patches = keys.unwhitened(torch.einsum("qk,qkp->qp", n_w, v))
        if outputs.variance:
            squares = torch.einsum("qk,qkp->qp", n_w, keys.unwhitened(v).square())
            patches = torch.cat([patches, squares], dim=1)
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
        keys_evaluated=torch.zeros_like(key[:, 0]),
    )
