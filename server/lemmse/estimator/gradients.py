"""The derivative of a reconstruction with respect to y, multiplied by a vector from the left.

A pixel of x̂ is Σ_n m_n / N, the mean over the N patches that contain it (overlap), or only that of its own
patch (centre), where m_n is the posterior mean of the patch u_n = Π_n y. For a vector g with the shape of the
image, g·x̂ has the derivative

    Σ_n Π_nᵀ h_n,     h_n = d(a_n·m_n)/du_n,     a_n = Π_n (g / N), or g at the centre and 0 elsewhere,

and h_n is a posterior covariance, see `covariances`. Π_nᵀ adds each number to the pixel from which it was
cut, also where the border is mirrored.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.image_queries import ImageQueries

__all__ = ["vector_jacobian_product"]

_BLOCK = 4096
"""Number of patches extracted at once."""


def vector_jacobian_product(
    backend: Backend,
    queries: ImageQueries,
    vector: NDArray[np.float64],
    aggregate: str,
    cancelled: Cancel,
) -> NDArray[np.float64]:
    """Return the derivative of the sum of vector · reconstruction with respect to y, (D, H, W, C).

    Parameters
    ----------
    backend : Backend
        The keys, which are clean patches, A = B = I.
    queries : ImageQueries
        The query patches of y.
    vector : float64, (D, H, W, C)
        The vector g; D = 1 for an image.
    aggregate : str
        "centre" or "overlap".
    cancelled : callable
        Polled between tiles of work; when it returns True, Cancelled is raised.
    """
    *sides, channels = vector.shape
    pixels = math.prod(sides)
    positions = backend.cut(np.arange(pixels).reshape(*sides, 1))

    def blocks() -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Yield positions of patches, (Q,), and those of their pixels, (Q p_z p²,)."""
        for start in range(0, pixels, _BLOCK):
            n = np.arange(start, min(start + _BLOCK, pixels))
            yield n, positions.at(n).reshape(-1)

    if aggregate == "overlap":
        patches = torch.zeros(pixels, dtype=torch.int64, device=backend.device)
        for _, members in blocks():
            patches += torch.bincount(members, minlength=pixels)
        vector = vector / patches.cpu().numpy().reshape(*sides, 1)
    g = backend.cut(vector)
    product = torch.zeros(pixels, channels, dtype=torch.float64, device=backend.device)
    for n, members in blocks():
        directions = g.at(n)  # (Q, P)
        if aggregate == "centre":
            own = torch.zeros_like(directions)
            own[:, backend.centre] = directions[:, backend.centre]
            directions = own
        h = queries.pull_back(n, directions, cancelled).reshape(-1, channels)
        product.index_add_(0, members, h)
    return product.cpu().numpy().reshape(vector.shape)
