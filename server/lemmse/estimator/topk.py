"""The top-k posterior: the sum over the k nearest keys that FAISS finds.

It is the full posterior where that has few effective samples, at low noise, and far from it at high noise.
"""

from dataclasses import dataclass
from functools import cached_property

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.keys import Keys
from lemmse.estimator.sums import MEAN_ONLY, PosteriorSums, Want
from lemmse.estimator.work import Cancel, never, stop_if

__all__ = ["Neighbours", "topk_sums"]

_BLOCK = 1 << 18
"""Neighbours held at a time, for all queries of a block."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest-neighbour search of an index."""

    index: faiss.IndexIVFFlat
    """Numbers the keys as `Keys` does. Its distances are sums of squared differences, all digits kept."""

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Keys in each cell, and none in the cell −1 that FAISS skips."""
        sizes = [self.index.invlists.list_size(cell) for cell in range(self.index.nlist)]
        return np.array([*sizes, 0], np.int64)

    def search(
        self, u: NDArray[np.float32], k: int, nprobe: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Find the k nearest keys in the nprobe nearest cells, or in as many more as it takes to have k.

        Returns
        -------
        squared distances (Q, k), keys (Q, k), keys whose distance was computed (Q,)
        """
        cell_distances, cells = self.index.quantizer.search(u, min(nprobe, self.index.nlist))
        touched = self._sizes[cells].sum(axis=1)
        if (touched < k).any():
            cell_distances, cells = self.index.quantizer.search(u, self.index.nlist)
            # A cell is searched while those before it hold fewer than k keys, or number fewer than nprobe.
            before = np.cumsum(self._sizes[cells], axis=1) - self._sizes[cells]
            cells[(before >= k) & (np.arange(self.index.nlist) >= nprobe)] = -1
            touched = self._sizes[cells].sum(axis=1)
        squared = np.empty((len(u), k), np.float32)
        found = np.empty((len(u), k), np.int64)
        # The Python wrapper would take the number of cells from the index, which other threads share.
        self.index.search_preassigned_c(
            len(u),
            faiss.swig_ptr(u),
            k,
            *(faiss.swig_ptr(x) for x in (cells, cell_distances, squared, found)),
            False,
            faiss.IVFSearchParameters(nprobe=cells.shape[1]),
        )
        return squared, found, touched


def topk_sums(
    keys: Keys,
    neighbours: Neighbours,
    u: Tensor,
    sigma: float,
    *,
    k: int,
    nprobe: int,
    want: Want = MEAN_ONLY,
    cancelled: Cancel = never,
) -> PosteriorSums:
    """Sum the weights of the k nearest keys for each query.

    Parameters
    ----------
    keys : Keys
        The keys.
    neighbours : Neighbours
        Their search.
    u : float32, (Q, P)
        Query patches, on the device of the keys.
    sigma : float
        Noise standard deviation, in intensity units, > 0.
    k : int
        Neighbours to sum, >= 1; of fewer keys, all.
    nprobe : int
        Cells to search, >= 1; a query whose cells hold fewer than k keys searches as many more as it takes.
    want : Want
        Which sums beside those of the mean.
    cancelled : callable
        Polled for every block of queries.

    Raises
    ------
    Cancelled
        `cancelled()` was true.
    """
    k = min(k, keys.count)
    parts = []
    for block in torch.split(u, max(1, _BLOCK // k)):
        stop_if(cancelled)
        squared, found, touched = neighbours.search(block.cpu().numpy(), k, nprobe)
        parts.append(
            _sums(keys, sigma, want, *(torch.from_numpy(x).to(u.device) for x in (squared, found, touched)))
        )
    return PosteriorSums.join(parts)


def _sums(
    keys: Keys, sigma: float, want: Want, squared: Tensor, found: Tensor, touched: Tensor
) -> PosteriorSums:
    """Sums over the keys found, (Q, k), nearest first."""
    log_w = squared.double() / (-2 * sigma**2)
    log_max = log_w.amax(dim=1)
    w = torch.exp(log_w - log_max[:, None])
    moments = keys.moments_of(found)[..., : want.rows(keys.t_length)].double()  # (Q, k, rows)
    top_log_w, rank = log_w.topk(min(want.top, log_w.shape[1]), dim=1)
    return PosteriorSums(
        log_max=log_max,
        moments=torch.einsum("qk,qkr->qr", w, moments),
        w2=(w.square() * moments[..., 0]).sum(dim=1, keepdim=True)[:, : 1 * want.ess],
        top_log_w=top_log_w,
        top_key=found.gather(1, rank),
        touched=touched,
    )
