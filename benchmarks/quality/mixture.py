"""A Gaussian mixture of training patches: the classical model between one Gaussian and all patches.

Clean patches are modelled by a mixture Σ_k π_k N(μ_k, Σ_k), fitted by EM. With white noise the posterior mean
is exact,

    Σ_k w_k [ μ_k + Σ_k (Σ_k + σ² I)⁻¹ (u − μ_k) ],      w_k ∝ π_k N(u; μ_k, Σ_k + σ² I),

and every pixel is the mean of its estimates by all patches that contain it (Zoran and Weiss 2011; Yu, Sapiro
and Mallat 2012). There are two variants: one of the patches themselves, and one of the patches without their
mean per channel, where the noisy patch's mean is added back. The first models which intensities occur, the
second also covers intensities that do not occur in the training images.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.data import Data, Image
from benchmarks.quality.methods import Method, Opened, Ready, digest
from benchmarks.quality.needs import needed
from lemmse.index.sources import intensities

SIDES = {1: 7, 3: 6}
"""Side of the patches, by number of channels."""
FIT: dict[str, Any] = {
    "n_components": 100,
    "reg_covar": 1e-5,
    "max_iter": 20,
    "init_params": "k-means++",
    "random_state": 0,
}
PATCHES = 100_000
"""Number of training patches to draw."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of Gaussians, with covariances along their principal axes."""

    weights: NDArray[np.float64]
    """Weights π, (K,)."""
    means: NDArray[np.float64]
    """Means μ, (K, P)."""
    variances: NDArray[np.float64]
    """Eigenvalues of Σ, (K, P)."""
    axes: NDArray[np.float64]
    """Eigenvectors of Σ in columns, (K, P, P)."""

    @classmethod
    def fit(cls, patches: NDArray[np.float32]) -> "Mixture":
        """Return the mixture fitted by EM to patches (n, P)."""
        with needed("GMM"):
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.mixture import GaussianMixture
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter limits the time
            model = GaussianMixture(**FIT).fit(patches)
        variances, axes = np.linalg.eigh(model.covariances_.astype(np.float64))
        # Rounding makes some of the smallest eigenvalues negative.
        return cls(model.weights_, model.means_, np.maximum(variances, 0), axes)

    def posterior_mean(self, u: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
        """Return the mean clean patch for each noisy patch, (n, P)."""
        log_w = np.empty((len(self.weights), len(u)))
        means = np.empty((len(self.weights), *u.shape))
        for k, (mean, variance, axes) in enumerate(zip(self.means, self.variances, self.axes, strict=True)):
            z = (u - mean) @ axes
            noisy = variance + sigma**2
            log_w[k] = np.log(self.weights[k]) - 0.5 * (np.log(noisy).sum() + (z**2 / noisy).sum(axis=1))
            means[k] = mean + (z * (variance / noisy)) @ axes.T
        w = np.exp(log_w - log_w.max(axis=0))
        return np.asarray(np.einsum("kn,knp->np", w / w.sum(axis=0), means))

    def denoise(self, y: Image, sigma: float, offset: bool) -> Image:
        """Return the image of the posterior means, averaged where patches overlap."""
        p = SIDES[y.shape[2]]
        cut = windows(y, p)  # (rows, columns, p, p, C)
        level = cut.mean(axis=(2, 3), keepdims=True) if offset else np.zeros(1)
        u = (cut - level).reshape(-1, p * p * y.shape[2])
        x = self.posterior_mean(u, sigma).reshape(cut.shape) + level
        total, count = np.zeros_like(y), np.zeros_like(y)
        rows, columns = cut.shape[:2]
        for row in range(p):
            for column in range(p):
                total[row : row + rows, column : column + columns] += x[:, :, row, column]
                count[row : row + rows, column : column + columns] += 1
        return total / count


def windows(image: Image, p: int) -> Image:
    """Return all patches that lie wholly inside an image, (rows, columns, p, p, C)."""
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(image, (p, p), axis=(0, 1)), 2, 4)


def training_patches(data: Data, offset: bool) -> NDArray[np.float32]:
    """Return random patches of the training images, (PATCHES, P); with offset, without their means."""
    rng = np.random.default_rng(0)
    count, height, width, channels = data.training.shape
    p = SIDES[channels]
    k = rng.integers(count, size=PATCHES)[:, None, None]
    rows = rng.integers(height - p + 1, size=PATCHES)[:, None, None] + np.arange(p)[:, None]
    columns = rng.integers(width - p + 1, size=PATCHES)[:, None, None] + np.arange(p)
    patches = intensities(data.training[k, rows, columns])  # (PATCHES, p, p, C)
    if offset:
        patches -= patches.mean(axis=(1, 2), keepdims=True)
    return patches.reshape(PATCHES, -1)


def settings(offset: bool) -> dict[str, Any]:
    return {"sides": SIDES, "patches": PATCHES, "offset": offset, **FIT}


@contextmanager
def opened(data: Data, cache: Path, *, offset: bool) -> Iterator[Opened]:
    path = cache / f"gmm-{digest(data.training, settings(offset))}.npz"
    if not path.exists():
        mixture = Mixture.fit(training_patches(data, offset))
        np.savez(path, **{field.name: getattr(mixture, field.name) for field in fields(Mixture)})
    with np.load(path) as arrays:
        mixture = Mixture(**arrays)
    yield lambda sigma: Ready(lambda y: mixture.denoise(y, sigma, offset))


GMM = tuple(
    Method(name, partial(opened, offset=offset), settings(offset), lambda data: len(data.training))
    for name, offset in (("GMM", False), ("GMM offset", True))
)
