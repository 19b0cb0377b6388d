"""Posterior sums of a mixture of Gaussians: a smooth prior on patches, in addition to the training patches.

A clean patch v drawn from N(μ_g, Σ_g) is observed as u, with noise of precision Λ = diag(λ), λ_i = 1/s_i² and
0 where nothing was observed. With Σ_g = L Lᵀ and A = I + Lᵀ Λ L,

    log w_g(u) = log π_g + log N(u; μ_g, Σ_g + Λ⁻¹)
               = log π_g + ½ Σ_i log (λ_i / 2π) − ½ log det A − ½ [ (u − μ_g)ᵀ Λ (u − μ_g) − bᵀ A⁻¹ b ]
    E[v | u, g] = μ_g + L A⁻¹ b,        Cov[v | u, g] = L A⁻¹ Lᵀ,        b = Lᵀ Λ (u − μ_g),

where the sum over i is over the observed coordinates. The sums over all g have the form of those over keys,
and merge with them. For noise of one σ, A is diagonal along the principal axes of Σ_g.

If the keys are whitened, u and v are whitened patches here, and W⁻¹ v is the clean patch: its mean is
W⁻¹ E[v | u], its covariance W⁻¹ Cov[v | u] W⁻ᵀ.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, raise_if_cancelled
from lemmse.estimator.covariances import Covariances
from lemmse.estimator.queries import LARGEST_MAGNITUDE, Queries
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import PosteriorSums
from lemmse.index.clustering.mixture import Mixture

__all__ = ["Gaussians", "Spectra"]

_NEGLIGIBLE = 1e-7
"""Gaussians whose weight, relative to the largest, is below this are omitted."""
_BLOCK = 1 << 19
"""Largest total number of entries of the matrices A between two polls for cancellation."""
_TAILS = (1.0, 0.9), (4.0, 0.07), (16.0, 0.03)
"""Factors by which Gaussians with tails are widened, and their shares."""


class Gaussians:
    """The mixture of Gaussians of an index, on one device.

    Parameters
    ----------
    mixture : Mixture
        The mixture.
    centre : slice
        Coordinates of the centre pixel in a flattened patch.
    device : torch.device
        Device on which to compute.
    unwhitener : float64, (P, P), optional
        W⁻¹, if the mixture is one of whitened patches.
    """

    def __init__(
        self,
        mixture: Mixture,
        centre: slice,
        device: torch.device,
        unwhitener: NDArray[np.float64] | None = None,
    ) -> None:
        weights, means, variances, axes = (
            torch.from_numpy(array).to(device)
            for array in (mixture.weights, mixture.means, mixture.variances, mixture.axes)
        )
        self.weights = weights.double()
        self._log_weights = self.weights.log()
        self.means = means
        self.variances = variances
        self.axes = axes
        self.clean_means, self.clean_axes = means, axes
        if unwhitener is not None:
            inverse = torch.from_numpy(unwhitener).to(device, means.dtype)
            self.clean_means, self.clean_axes = means @ inverse.T, inverse @ axes
        self._centre = centre

    def sums(self, queries: Queries, spec: SumSpec) -> PosteriorSums:
        """Return the posterior sums over the Gaussians, each counted as one key, with normalizing constants.

        Parameters
        ----------
        queries : Queries
            The whitened query patches, (Q, P), without their level if the mixture was fitted without levels.
        spec : SumSpec
            Its outputs are used, and its reference mean if these include bounds. Gaussians are not listed
            among the heaviest keys.

        Raises
        ------
        Cancelled
            `spec.cancelled()` was true; it is polled for every Gaussian.

        References
        ----------
        G. Yu, G. Sapiro, S. Mallat, Solving inverse problems with piecewise linear estimators, IEEE
        Transactions on Image Processing 21 (2012).
        """
        sums = PosteriorSums.join([self._sums(queries.rows(rows), spec) for rows in self._blocks(queries)])
        channels = self._centre.stop - self._centre.start
        return sums.with_exact_errors(channels, spec.outputs, spec.reference)

    def responsibilities(self, queries: Queries, cancelled: Cancel) -> Tensor:
        """Return the probability of each Gaussian, given each query, float64, (Q, G); see `log_density`."""
        parts = (self._posteriors(queries.rows(rows)) for rows in self._blocks(queries))
        return torch.cat([self._log_w(part, cancelled).softmax(dim=1) for part in parts])

    def log_density(self, queries: Queries, cancelled: Cancel) -> Tensor:
        """Return the log density of each query under the mixture with tails and the noise, float64, (Q,).

        Tails are Gaussians of the same means that are widened: images unlike the training images have more
        details, of the same kinds.

        Parameters
        ----------
        queries : Queries
            As in `sums`.
        cancelled : callable
            Polled for every Gaussian.

        Raises
        ------
        Cancelled
            `cancelled()` was true.
        """
        blocks = [queries.rows(rows) for rows in self._blocks(queries)]

        def log_densities(scale: float) -> Tensor:
            parts = (self._log_w(self._posteriors(block, scale), cancelled) for block in blocks)
            return torch.cat([part.logsumexp(dim=1) for part in parts])

        return _with_tails([log_densities(scale) for scale, _ in _TAILS])

    def spectra(self, u: Tensor) -> "Spectra":
        """Return what `log_density` of patches is computed from fast, for white noise of any σ.

        Parameters
        ----------
        u : Tensor
            The patches, whitened as queries are, (Q, P).
        """
        parts = [(u.float() - mean) @ axes for mean, axes in zip(self.means, self.axes, strict=True)]
        squares = torch.stack(parts).square_()  # (G, Q, R)
        return Spectra(self._log_weights, self.variances, squares)

    def _blocks(self, queries: Queries) -> list[slice]:
        step = len(queries) if queries.is_white else max(1, _BLOCK // self.axes.shape[2] ** 2)
        return [slice(start, start + step) for start in range(0, len(queries), step)]

    def _posteriors(self, queries: Queries, scale: float = 1.0) -> "_Posteriors":
        return (_White if queries.is_white else _Weighted)(self, queries, scale)

    def _log_w(self, posteriors: "_Posteriors", cancelled: Cancel) -> Tensor:
        """Return the log weight of each Gaussian for each query, (Q, G)."""
        parts = []
        for g in range(len(self.means)):
            raise_if_cancelled(cancelled)
            parts.append(posteriors.log_density(g))
        return torch.stack(parts, dim=1) + self._log_weights

    def _weights(self, posteriors: "_Posteriors", cancelled: Cancel) -> tuple[Tensor, Tensor]:
        """Return the largest log weight of each query, (Q,), and all weights relative to it, (Q, G)."""
        log_w = self._log_w(posteriors, cancelled)
        log_max = log_w.amax(dim=1)
        w = (log_w - log_max[:, None]).exp()
        return log_max, torch.where(w > _NEGLIGIBLE, w, 0.0)  # in all sums alike, for consistency

    def _sums(self, queries: Queries, spec: SumSpec) -> PosteriorSums:
        posteriors = self._posteriors(queries)
        log_max, w = self._weights(posteriors, spec.cancelled)
        patch = torch.zeros(queries.u.shape, dtype=torch.float64, device=queries.u.device)
        square = torch.zeros_like(patch)
        for g in range(len(self.means)):
            raise_if_cancelled(spec.cancelled)
            rows = w[:, g].nonzero()[:, 0]
            if len(rows):
                mean, variance = (part.double() for part in posteriors.clean(g, rows))
                patch[rows] += w[rows, g, None] * mean
                if spec.outputs.variance:
                    square[rows] += w[rows, g, None] * (mean.square() + variance)
        powers = [patch, square] if spec.outputs.variance else [patch]
        none = w[:, :0]
        return PosteriorSums(
            log_max=log_max,
            moments=torch.cat(
                [w.sum(dim=1, keepdim=True), *(sums[:, self._centre] for sums in powers)], dim=1
            ),
            patches=torch.cat(powers, dim=1) if spec.outputs.patch else none,
            w2=w.square().sum(dim=1, keepdim=True) if spec.outputs.ess else none,
            error_variance=none,
            bounds=none,
            top_log_w=none,
            top_key=none.long(),
            keys_evaluated=torch.zeros(len(w), dtype=torch.int64, device=w.device),
        )

    def covariances(self, queries: Queries, directions: Tensor, cancelled: Cancel) -> Covariances:
        """Return the covariances over the Gaussians, with normalizing constants; see `covariances`.

        Parameters
        ----------
        queries : Queries
            As for `sums`.
        directions : Tensor
            The direction a of each query, float64, (Q, P).
        cancelled : callable
            Polled for every Gaussian; when it returns True, Cancelled is raised.
        """
        numbers = torch.arange(len(queries), device=queries.u.device)
        return Covariances.gather(
            [
                (numbers[rows], self._covariances(queries.rows(rows), directions[rows], cancelled))
                for rows in self._blocks(queries)
            ]
        )

    def _covariances(self, queries: Queries, a: Tensor, cancelled: Cancel) -> Covariances:
        posteriors = self._posteriors(queries)
        log_max, w = self._weights(posteriors, cancelled)
        total = w.sum(dim=1, keepdim=True)
        s, v, product = torch.zeros_like(total), torch.zeros_like(a), torch.zeros_like(a)
        for g in range(len(self.means)):
            raise_if_cancelled(cancelled)
            rows = w[:, g].nonzero()[:, 0]
            if len(rows):
                share = w[rows, g, None] / total[rows]
                mean = posteriors.clean(g, rows)[0].double()
                along = (a[rows] * mean).sum(dim=1, keepdim=True)
                s[rows] += share * along
                v[rows] += share * mean
                product[rows] += share * (along * mean + posteriors.covariance(g, rows, a[rows]).double())
        return Covariances(log_max=log_max, w=total, s=s, v=v, product=total * (product - s * v))


@dataclass(frozen=True, slots=True)
class Spectra:
    """The parts of patches along the axes of each Gaussian, which do not depend on the noise."""

    log_weights: Tensor
    """log π, float64, (G,)."""
    variances: Tensor
    """Variances D along the axes, (G, R)."""
    squares: Tensor
    """Squares of u − μ_g along the axes, (G, Q, R)."""

    def log_density(self, sigma: float, rows: slice) -> Tensor:
        """Return the log density of some patches with white noise of standard deviation σ, float64, (n,)."""
        wide = torch.stack([_widened(self.variances, scale) for scale, _ in _TAILS], dim=2)
        noisy = wide.double() + sigma**2  # (G, R, T)
        square = (self.squares[:, rows] @ noisy.reciprocal().float()).double()  # (G, n, T)
        log_norm = self.log_weights[:, None] - 0.5 * (2 * math.pi * noisy).log().sum(dim=1)  # (G, T)
        return _with_tails((log_norm[:, None] - 0.5 * square).logsumexp(dim=0).T)


def _widened(variances: Tensor, scale: float) -> Tensor:
    """Return the variances (G, R) of Gaussians without the white part of each times `scale`, and with it."""
    white = variances.amin(dim=1, keepdim=True)
    return white + scale * (variances - white)


def _with_tails(log_densities: Iterable[Tensor]) -> Tensor:
    """Return the log density of queries under the mixture with tails, from those under each of them, (Q,)."""
    parts = [one + math.log(share) for one, (_, share) in zip(log_densities, _TAILS, strict=True)]
    return torch.stack(parts).logsumexp(dim=0)


class _Posteriors(Protocol):
    """The posteriors of a set of queries under each Gaussian."""

    def log_density(self, g: int) -> Tensor:
        """Return the log density of each query under Gaussian g with added noise, (Q,)."""
        ...

    def clean(self, g: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variances of the clean patches of some queries under Gaussian g, (n, P) each."""
        ...

    def covariance(self, g: int, rows: Tensor, a: Tensor) -> Tensor:
        """Return the covariance of the clean patch v and a·v for some queries under Gaussian g, (n, P)."""
        ...


class _White:
    """White noise: with the variances D along the axes, Σ_g + σ² I has D + σ² = (1 + λ D) / λ.

    In float64 if a query is sharp (see `queries`).
    """

    def __init__(self, gaussians: Gaussians, queries: Queries, scale: float) -> None:
        magnitude = queries.precision.double() * queries.u.double().square().sum(dim=1)
        self._type = torch.float64 if (magnitude > LARGEST_MAGNITUDE).any() else torch.float32
        self._gaussians, self._u = gaussians, queries.u.to(self._type)
        self._variances = _widened(gaussians.variances, scale).to(self._type)
        self._precision = queries.precision.to(self._type)

    def log_density(self, g: int) -> Tensor:
        mean, axes, variances = self._parts(g)
        noisy = (1 + self._precision * variances) / self._precision  # (R,)
        white = (self._u - mean) @ (axes / noisy.sqrt())
        square: Tensor = torch.linalg.vector_norm(white, dim=1).double().square()
        return -0.5 * (square + (2 * math.pi * noisy.double()).log().sum())

    def clean(self, g: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, axes, variances = self._parts(g)
        clean_mean, clean_axes = (
            part[g].to(self._type) for part in (self._gaussians.clean_means, self._gaussians.clean_axes)
        )
        noisy = 1 + self._precision * variances
        gain = clean_axes * (self._precision * variances / noisy)  # (P, R)
        variance = (clean_axes.square() * (variances / noisy)).sum(dim=1)
        return clean_mean + (self._u[rows] - mean) @ axes @ gain.T, variance

    def covariance(self, g: int, rows: Tensor, a: Tensor) -> Tensor:
        _, axes, variances = self._parts(g)
        left = variances / (1 + self._precision * variances)
        return (a.to(self._type) @ axes * left) @ axes.T

    def _parts(self, g: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, axes and variances of Gaussian g."""
        gaussians = self._gaussians
        return (
            gaussians.means[g].to(self._type),
            gaussians.axes[g].to(self._type),
            self._variances[g],
        )


class _Weighted:
    """Noise with a precision for each coordinate; in float64, since the quadratic terms may nearly cancel."""

    def __init__(self, gaussians: Gaussians, queries: Queries, scale: float) -> None:
        self._means, self._u, self._precision = (
            tensor.double() for tensor in (gaussians.means, queries.u, queries.precision)
        )
        self._roots = (gaussians.axes * _widened(gaussians.variances, scale).sqrt()[:, None]).double()
        self._distinct, self._number = torch.unique(self._precision, dim=0, return_inverse=True)
        observed = self._precision > 0
        self._log_norm = 0.5 * torch.where(observed, self._precision / (2 * math.pi), 1.0).log().sum(dim=1)

    def log_density(self, g: int) -> Tensor:
        factor, b = self._system(g, slice(None))
        square = (self._precision * (self._u - self._means[g]).square()).sum(dim=1)
        if len(factor) < len(b):  # all share one: a single solution for all is much faster
            white = torch.linalg.solve_triangular(factor[0], b[:, :, 0].T, upper=False)
            explained = white.square().sum(dim=0)
        else:
            explained = torch.linalg.solve_triangular(factor, b, upper=False).square().sum(dim=(1, 2))
        half_log_det = factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        log_density: Tensor = self._log_norm - half_log_det - 0.5 * (square - explained)
        return log_density

    def clean(self, g: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        factor, b = self._system(g, rows)
        root = self._roots[g]
        mean = self._means[g] + torch.cholesky_solve(b, factor)[:, :, 0] @ root.T
        whitened = torch.linalg.solve_triangular(factor, root.T.expand(len(factor), -1, -1), upper=False)
        return mean, whitened.square().sum(dim=1)

    def covariance(self, g: int, rows: Tensor, a: Tensor) -> Tensor:
        factor, _ = self._system(g, rows)
        root = self._roots[g]
        solved: Tensor = torch.cholesky_solve((a @ root)[:, :, None], factor)
        return solved[:, :, 0] @ root.T

    def _system(self, g: int, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the Cholesky factor of A, (n, R, R), and b, (n, R, 1), for the queries `rows`.

        If all have the same precisions, as those of channels with a noise of their own, there is one factor.
        """
        root = self._roots[g]
        numbers, which = torch.unique(self._number[rows], return_inverse=True)
        a = torch.einsum("np,pr,ps->nrs", self._distinct[numbers], root, root)
        a.diagonal(dim1=1, dim2=2).add_(1.0)
        b = (self._precision[rows] * (self._u[rows] - self._means[g])) @ root
        factor = torch.linalg.cholesky(a)
        return factor if len(factor) == 1 else factor[which], b[:, :, None]
