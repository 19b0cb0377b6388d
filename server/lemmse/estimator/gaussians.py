"""Posterior sums of a mixture of Gaussians: a smooth prior of patches, beside the training patches.

A clean patch v drawn from N(μ_g, Σ_g) is seen as u, with noise of precision Λ = diag(1/s²), 0 where nothing
was observed. With Σ_g = L Lᵀ and A = I + Lᵀ Λ L,

    log w_g(u) = log π_g + log N(u; μ_g, Σ_g + Λ⁻¹)
               = log π_g + ½ Σ_i log (Λ_i / 2π) − ½ log det A − ½ [ (u − μ_g)ᵀ Λ (u − μ_g) − bᵀ A⁻¹ b ]
    E[v | u, g] = μ_g + L A⁻¹ b,        Cov[v | u, g] = L A⁻¹ Lᵀ,        b = Lᵀ Λ (u − μ_g),

where the sum over i has the observed coordinates only. The sums over all g have the form of those over keys,
and merge with them. Noise of one σ leaves A diagonal along the principal axes of Σ_g.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, stop_if
from lemmse.estimator.queries import Queries
from lemmse.estimator.sums import PosteriorSums, Want
from lemmse.index.clustering.mixture import Mixture

__all__ = ["Gaussians"]

_LEAST = 1e-7
"""Share of the posterior below which a Gaussian does not count."""
_BLOCK = 1 << 24
"""Numbers in the matrices A of some queries that are treated together."""


class Gaussians:
    """The mixture of an index, on one device.

    Parameters
    ----------
    mixture : Mixture
        The mixture.
    centre : slice
        Where a patch has its centre pixel.
    device : torch.device
        Where to compute.
    """

    def __init__(self, mixture: Mixture, centre: slice, device: torch.device) -> None:
        weights, means, variances, axes = (
            torch.from_numpy(array).to(device)
            for array in (mixture.weights, mixture.means, mixture.variances, mixture.axes)
        )
        self._log_weights = weights.double().log()
        self.means = means
        self.variances = variances
        self.axes = axes
        self._centre = centre

    def sums(
        self, queries: Queries, want: Want, cancelled: Cancel, about: Tensor | None = None
    ) -> PosteriorSums:
        """Sums over the Gaussians, each of which counts as one key, with their normalising constants.

        Parameters
        ----------
        queries : Queries
            White query patches, (Q, P), without their level if those of the mixture are.
        want : Want
            Which sums beside those of the mean; none names the heaviest.
        cancelled : callable
            Polled for every Gaussian.
        about : Tensor, optional
            The h of bounds, (Q, T).

        Raises
        ------
        Cancelled
            `cancelled()` was true.

        References
        ----------
        G. Yu, G. Sapiro, S. Mallat, Solving inverse problems with piecewise linear estimators, IEEE
        Transactions on Image Processing 21 (2012).
        """
        step = len(queries) if queries.is_white else max(1, _BLOCK // self.axes.shape[2] ** 2)
        blocks = [slice(start, start + step) for start in range(0, len(queries), step)]
        sums = PosteriorSums.join([self._sums(queries.rows(rows), want, cancelled) for rows in blocks])
        return sums.certain(self._centre.stop - self._centre.start, want, about)

    def _sums(self, queries: Queries, want: Want, cancelled: Cancel) -> PosteriorSums:
        given: _Given = (_White if queries.is_white else _Weighted)(self, queries)
        parts = []
        for g in range(len(self.means)):
            stop_if(cancelled)
            parts.append(given.log_density(g))
        log_w = torch.stack(parts, dim=1) + self._log_weights
        log_max = log_w.amax(dim=1)
        w = (log_w - log_max[:, None]).exp()
        w = torch.where(w > _LEAST, w, 0.0)  # from all sums, or what they say would not fit together
        patch = torch.zeros(queries.u.shape, dtype=torch.float64, device=queries.u.device)
        square = torch.zeros_like(patch)
        for g in range(len(self.means)):
            stop_if(cancelled)
            rows = w[:, g].nonzero()[:, 0]
            if len(rows):
                mean, variance = (part.double() for part in given.clean(g, rows))
                patch[rows] += w[rows, g, None] * mean
                if want.variance:
                    square[rows] += w[rows, g, None] * (mean.square() + variance)
        powers = [patch, square] if want.variance else [patch]
        none = w[:, :0]
        return PosteriorSums(
            log_max=log_max,
            moments=torch.cat(
                [w.sum(dim=1, keepdim=True), *(sums[:, self._centre] for sums in powers)], dim=1
            ),
            patches=torch.cat(powers, dim=1) if want.patch else none,
            w2=w.square().sum(dim=1, keepdim=True) if want.ess else none,
            doubt=none,
            bounds=none,
            top_log_w=none,
            top_key=none.long(),
            touched=torch.zeros(len(w), dtype=torch.int64, device=w.device),
        )


class _Given(Protocol):
    """The Gaussians given some queries."""

    def log_density(self, g: int) -> Tensor:
        """The log density of each query under a Gaussian and the noise, (Q,)."""
        ...

    def clean(self, g: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the clean patches of some queries that a Gaussian gave, and their variances, (n, P)."""
        ...


class _White:
    """Noise of one σ."""

    def __init__(self, gaussians: Gaussians, queries: Queries) -> None:
        self._of, self._u = gaussians, queries.u
        self._sigma2 = 1 / queries.precision

    def log_density(self, g: int) -> Tensor:
        noisy = self._of.variances[g] + self._sigma2  # (R,)
        white = (self._u - self._of.means[g]) @ (self._of.axes[g] / noisy.sqrt())
        square: Tensor = torch.linalg.vector_norm(white, dim=1).double().square()
        return -0.5 * (square + (2 * math.pi * noisy.double()).log().sum())

    def clean(self, g: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, axes, variances = self._of.means[g], self._of.axes[g], self._of.variances[g]
        shrunk = axes * (variances / (variances + self._sigma2))  # (P, R)
        left = self._sigma2 * (shrunk * axes).sum(dim=1)
        return mean + (self._u[rows] - mean) @ axes @ shrunk.T, left


class _Weighted:
    """Noise of a precision for each coordinate; in float64, since the two squares may nearly be equal."""

    def __init__(self, gaussians: Gaussians, queries: Queries) -> None:
        self._means, self._u, self._precision = (
            tensor.double() for tensor in (gaussians.means, queries.u, queries.precision)
        )
        self._roots = (gaussians.axes * gaussians.variances.sqrt()[:, None]).double()
        seen = self._precision > 0
        self._log_norm = 0.5 * torch.where(seen, self._precision / (2 * math.pi), 1.0).log().sum(dim=1)

    def log_density(self, g: int) -> Tensor:
        factor, b = self._system(g, slice(None))
        square = (self._precision * (self._u - self._means[g]).square()).sum(dim=1)
        explained = torch.linalg.solve_triangular(factor, b, upper=False).square().sum(dim=(1, 2))
        half_log_det = factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        log_density: Tensor = self._log_norm - half_log_det - 0.5 * (square - explained)
        return log_density

    def clean(self, g: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        factor, b = self._system(g, rows)
        root = self._roots[g]
        mean = self._means[g] + torch.cholesky_solve(b, factor)[:, :, 0] @ root.T
        left = torch.linalg.solve_triangular(factor, root.T.expand(len(factor), -1, -1), upper=False)
        return mean, left.square().sum(dim=1)

    def _system(self, g: int, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of A, (n, R, R), and b, (n, R, 1), of some queries."""
        root, precision = self._roots[g], self._precision[rows]
        a = torch.einsum("np,pr,ps->nrs", precision, root, root)
        a.diagonal(dim1=1, dim2=2).add_(1.0)
        b = (precision * (self._u[rows] - self._means[g])) @ root
        return torch.linalg.cholesky(a), b[:, :, None]
