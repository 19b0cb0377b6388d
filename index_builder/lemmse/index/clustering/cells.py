"""Cells: groups of the keys that are nearest to the same centroid.

The centroids come from k-means on a sample of one stratum. Cells are numbered along the leading principal
component of their centroids, so that consecutive keys are close to each other. The exact sum centres each
tile of keys on its mean, which keeps its float32 products precise.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

__all__ = ["SAMPLE_PER_CELL", "cell_count", "fit", "nearest"]

SAMPLE_PER_CELL = 64
"""Number of sampled keys per cell for k-means; FAISS warns below 39."""


def cell_count(keys: int) -> int:
    """Return the number of cells for M keys: the power of two nearest to √M.

    Examples
    --------
    >>> [cell_count(m) for m in (1, 10_000, 1_000_000, 10_240_000)]
    [1, 128, 1024, 4096]
    """
    return int(2 ** round(np.log2(max(1.0, np.sqrt(keys)))))


def fit(sample: NDArray[np.float32], cells: int, seed: int) -> NDArray[np.float32]:
    """Return the centroids of the cells, in the order of the cells, float32, (cells, P).

    Parameters
    ----------
    sample : float32, (S, P)
        Keys drawn at random from the stratum, S >= cells.
    cells : int
        Number of cells.
    seed : int
        Seed of the clustering.
    """
    centroids: NDArray[np.float32] = sample.mean(axis=0, keepdims=True)
    if cells == 1:
        return centroids
    kmeans = faiss.Kmeans(sample.shape[1], cells, niter=10, seed=seed, min_points_per_centroid=1)
    kmeans.train(sample)
    centroids = kmeans.centroids
    axis = np.linalg.svd(centroids - centroids.mean(axis=0), full_matrices=False)[2][0]
    return centroids[np.argsort(centroids @ axis, kind="stable")]


def nearest(v: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the number of the nearest centroid for each key, int64, (len(v),)."""
    found: NDArray[np.int64] = faiss.knn(v, centroids, 1)[1][:, 0]
    return found
