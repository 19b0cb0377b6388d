"""The mixture of Gaussians, adapted to the patches of one image.

One step of expectation maximisation on two samples: the patches of an estimate of the image, and a number of
training patches, which count by the moments of the Gaussians that were fitted to them. Gaussians that explain
many patches of the image follow them, the others hardly change.
"""

import torch
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, raise_if_cancelled
from lemmse.estimator.gaussians import Gaussians
from lemmse.estimator.queries import Queries
from lemmse.index.clustering.mixture import Mixture

__all__ = ["MOST_PATCHES", "adapt"]

MOST_PATCHES = 1 << 16
"""Largest number of patches of an image that count."""
_TRAINING_PATCHES = 8192.0
"""Number of training patches that count: a quarter of the patches of 192×192 pixels."""
_RESPONSIBLE = 1e-3
"""Smallest responsibility with which a patch contributes."""


def adapt(gaussians: Gaussians, queries: Queries, cancelled: Cancel) -> Mixture:
    """Return the mixture adapted to patches.

    Parameters
    ----------
    gaussians : Gaussians
        The mixture.
    queries : Queries
        Patches of an estimate of the image, (Q, P), whitened as for `Gaussians.sums`, with the noise that is
        left in it.
    cancelled : callable
        Polled for every Gaussian.

    Raises
    ------
    Cancelled
        `cancelled()` was true.

    References
    ----------
    E. Luo, S. H. Chan, T. Q. Nguyen, Adaptive image denoising by mixture adaptation, IEEE Transactions on
    Image Processing 25 (2016).
    """
    share = gaussians.responsibilities(queries, cancelled)  # (Q, G)
    u = queries.u.double()
    prior = _TRAINING_PATCHES * gaussians.weights  # (G,)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for g in range(len(prior)):
        raise_if_cancelled(cancelled)
        rows = (share[:, g] > _RESPONSIBLE).nonzero()[:, 0]
        r, axes, variances = share[rows, g], gaussians.axes[g].double(), gaussians.variances[g].double()
        z = (u[rows] - gaussians.means[g].double()) @ axes  # along the axes, (n, R)
        count = r.sum() + prior[g]
        mean = r @ z / count
        square = z.T @ (r[:, None] * z) + prior[g] * torch.diag(variances)
        adapted, turned = torch.linalg.eigh(square / count - torch.outer(mean, mean))
        parts.append((axes @ mean, adapted, axes @ turned))
    moved, variances, axes = (torch.stack(part) for part in zip(*parts, strict=True))
    counts = share.sum(dim=0) + prior
    arrays = counts / counts.sum(), gaussians.means + moved, variances, axes
    return Mixture(*(array.float().cpu().numpy() for array in arrays))
