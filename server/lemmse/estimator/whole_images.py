"""MMSE and E-MMSE: the posterior sums over whole training images, and over their translations.

With a_k = A x_k and the precision λ = 1/s² of each pixel and channel of y (0 where nothing was observed):

**MMSE** weights images,

    log w_k = −½ Σ_q λ[q] (y[q] − a_k[q])²,                     x̂ = Σ_k w_k x_k / Σ_k w_k.

**E-MMSE** is LE-MMSE with the whole torus as the patch. The query at n consists of y[n + r] with precision
λ[n + r], and the key at m of a_k[m + r], for all r; with q = n + r and the shift s = m − n,

    log w_k(s) = −½ Σ_q λ[q] (y[q] − a_k[q + s])²,              x̂[n] = Σ_ks w_k(s) x_k[n + s] / Σ_ks w_k(s).

This depends on n and m only through s: even with a map of precisions, there is one posterior over (k, s), one
effective sample size and one density for all pixels. All sums are circular correlations, computed by FFT.

The pre-inverse B. An invertible B does not change the weights of MMSE, and a convolution does not change
those of E-MMSE, since it commutes with translations and transforms both sides alike. A diagonal B = diag(b)
is translated with the key: the noise in the patch at m is scaled by b[m + r], so

    log w_k(s) = −½ Σ_q λ[q] (b[q] y[q] / b[q + s] − a_k[q + s])²,

with a determinant that is the same for all s. If b has zeros (a mask), only the shifts that map the mask to
itself count, and only unmasked pixels are compared. At s = 0 this is MMSE.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.cancellation import raise_if_cancelled
from lemmse.estimator.sum_spec import EXACT, SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums

__all__ = ["WholeImages"]

_BLOCK = 2**20
"""Number of pixels of training images processed at once: 8 MB in each of about ten temporary arrays."""


class WholeImages:
    """Training images of one size, prepared for MMSE and E-MMSE.

    All sums are in float64: at σ = 0.001 a product in float32 would move log w by more than 1.

    Parameters
    ----------
    images : float, (K, H, W, C)
        The clean training images x_k.
    measured : float, (K, H, W, C)
        The measured training images without noise, A x_k, before the pre-inverse; the same array if A is the
        identity.
    device : torch.device
        Device on which to compute.
    scale : float, (H, W, C), optional
        The diagonal of B, if B is diagonal; 0 where it masks. If omitted, B is the identity or a convolution,
        neither of which changes the result.

    Examples
    --------
    >>> x = np.array([[0.0, 0.2, 0.4], [1.0, 0.8, 0.9]]).reshape(2, 1, 3, 1)
    >>> whole = WholeImages(x, x, torch.device("cpu"))
    >>> y, precision = np.array([0.2, 0.4, 0.0]).reshape(1, 3, 1), np.full((1, 3, 1), 1e4)
    >>> sums = whole.sums(y, precision, SumSpec(outputs=Outputs(top=1)), equivariant=True)
    >>> posterior = sums.posterior(3)
    >>> posterior.mean.numpy().round(3)
    array([[0.2, 0.4, 0. ]])
    >>> posterior.top_key.tolist()          # the first image, shifted by one column
    [[1]]
    """

    def __init__(
        self,
        images: NDArray[np.floating],
        measured: NDArray[np.floating],
        device: torch.device,
        *,
        scale: NDArray[np.floating] | None = None,
    ) -> None:
        self._x = torch.from_numpy(images).to(device)  # (K, H, W, C)
        self._a = self._x if measured is images else torch.from_numpy(measured).to(device)
        self._b = self._tensor(np.ones(images.shape[1:]) if scale is None else scale)  # (C, H, W)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        _, height, width, channels = self._x.shape
        return height, width, channels

    def sums(
        self,
        y: NDArray[np.floating],
        precision: float | NDArray[np.floating],
        spec: SumSpec = EXACT,
        *,
        equivariant: bool,
        some: NDArray[np.integer] | None = None,
    ) -> PosteriorSums:
        """Return the posterior sums over all images, or over all their translations, for one measurement.

        Parameters
        ----------
        y : float, (H, W, C)
            The measurement before the pre-inverse, of the size of the training images; arbitrary, or NaN,
            where the precision is 0.
        precision : float or (H, W, C)
            λ = 1/s², where s is the standard deviation of the noise in each pixel and channel, in
            intensities; 0 where nothing was observed.
        spec : SumSpec
            Its outputs are used; they must not include bounds or patch.
        equivariant : bool
            Whether to sum over all translations of each image (E-MMSE) or over the images only (MMSE).
        some : int, optional
            Numbers of the images that count, at least one; by default all.

        Returns
        -------
        PosteriorSums
            The sums for one query (Q = 1) whose target is the whole image, T = H·W·C, flattened in the order
            row, column, channel. log Σ w is the log density of the observed, unmasked pixels of y, where each
            of the M keys that count has prior weight 1/M. The number of a key is k for MMSE and k·H·W + s for
            E-MMSE, where the shift s is numbered row by row and pixel n has the value x_k[n + s].

        Raises
        ------
        InvalidArgument
            y does not have the size of the training images.
        Cancelled
            `spec.cancelled()` was true; it is polled for every block of images.

        References
        ----------
        arXiv 2601.10334, the MMSE and E-MMSE estimators.
        """
        if y.shape != self.shape:
            raise InvalidArgument.of(
                "y",
                f"expected an image of shape {self.shape}, the size of the training images, which the "
                f"estimators mmse and e-mmse compare as a whole, got {y.shape}; le-mmse takes any size",
            )
        lam = self._tensor(np.broadcast_to(precision, y.shape))
        observed = self._tensor(np.where(np.greater(precision, 0), y, 0.0))
        prepare = self._translations if equivariant else self._images
        block_sums = prepare(observed, lam, spec.outputs)
        sums = PosteriorSums.empty(1, y.size, 0, replace(spec.outputs, error=False), lam.device)
        step = max(1, _BLOCK // y.size)
        numbers = torch.arange(len(self._x)) if some is None else torch.from_numpy(some)
        for rows in torch.split(numbers.to(self._x.device), step):
            raise_if_cancelled(spec.cancelled)
            sums = sums.merge(block_sums(rows))
        counted = lam[(lam > 0) & (self._b != 0)]
        log_norm = 0.5 * (counted / (2 * math.pi)).log().sum()
        sums = sums.shift(log_norm - sums.keys_evaluated.double().log())
        return sums.with_exact_errors(y.size, spec.outputs)

    def _tensor(self, array: NDArray[np.floating]) -> Tensor:
        """Return an array (H, W, C) as a float64 tensor, (C, H, W)."""
        return torch.tensor(array, dtype=torch.float64, device=self._x.device).movedim(-1, 0).contiguous()

    def _images(self, y: Tensor, lam: Tensor, outputs: Outputs) -> "_BlockSums":
        """Return a function that sums over the images of a block, for MMSE."""
        compared = (lam * (self._b != 0)).flatten()

        def block_sums(rows: Tensor) -> PosteriorSums:
            x, a = _planes(self._x[rows]), _planes(self._a[rows])
            log_w = -0.5 * ((y - a).square_().flatten(1) @ compared)  # (B,)
            w = (log_w - log_w.max()).exp_()
            targets = [x, x.square()] if outputs.variance else [x]
            return _sums(log_w, w, [torch.tensordot(w, t, dims=1) for t in targets], outputs, rows)

        return block_sums

    def _translations(self, y: Tensor, lam: Tensor, outputs: Outputs) -> "_BlockSums":
        """Return a function that sums over all translations of the images of a block, for E-MMSE."""
        size = y.shape[1:]
        unmasked = (self._b != 0).double()
        inverse = torch.where(self._b != 0, 1 / self._b, 0.0)
        # The square in log w expands into one correlation for each power of a; the first depends on the shift
        # only. The suffix _hat marks Fourier transforms, in which a correlation is a product.
        by_shift = _ifft(_fft(-0.5 * lam * (self._b * y).square()).conj() * _fft(inverse.square()), size).sum(
            0
        )
        linear, quadratic = _fft(lam * self._b * y).conj(), _fft(-0.5 * lam).conj()
        # Number of unmasked pixels that the shift would compare with masked ones.
        unlike = _ifft(_fft(unmasked).conj() * _fft(1 - unmasked), size).sum(0)  # (H, W)
        by_shift = by_shift.where(unlike < 0.5, -math.inf)

        def block_sums(rows: Tensor) -> PosteriorSums:
            x, a = _planes(self._x[rows]), _planes(self._a[rows])
            scores_hat = (linear * _fft(a * inverse)).add_(quadratic * _fft(a.square() * unmasked)).sum(1)
            log_w = _ifft(scores_hat, size).add_(by_shift)  # (B, H, W)
            w = (log_w - log_w.max()).exp_()
            w_hat = _fft(w).conj()[:, None]
            targets = [x, x.square()] if outputs.variance else [x]
            means = [_ifft((w_hat * _fft(t)).sum(0), size) for t in targets]  # Σ_ks w_k(s) t_k[n + s]
            numbers = rows[:, None] * size.numel() + torch.arange(size.numel(), device=rows.device)
            return _sums(log_w.flatten(), w, means, outputs, numbers.flatten())

        return block_sums


_BlockSums = Callable[[Tensor], PosteriorSums]
"""A function that returns the sums over the images with these numbers."""


def _planes(images: Tensor) -> Tensor:
    """Return images (B, H, W, C) as a float64 tensor, (B, C, H, W)."""
    return images.movedim(-1, 1).to(torch.float64, memory_format=torch.contiguous_format)


def _fft(x: Tensor) -> Tensor:
    x_hat: Tensor = torch.fft.rfft2(x)
    return x_hat


def _ifft(x_hat: Tensor, size: torch.Size) -> Tensor:
    x: Tensor = torch.fft.irfft2(x_hat, s=size)
    return x


def _sums(log_w: Tensor, w: Tensor, means: list[Tensor], outputs: Outputs, numbers: Tensor) -> PosteriorSums:
    """Return the sums over one block of m keys with these numbers, (m,); log_w has shape (m,)."""
    top_log_w, top_key = log_w.topk(min(outputs.top, len(log_w)))
    flat = [mean.movedim(0, -1).flatten() for mean in means]  # each (H·W·C,)
    return PosteriorSums(
        log_max=log_w.max()[None],
        moments=torch.cat([w.sum()[None], *flat])[None],
        patches=w.new_empty(1, 0),
        w2=w.square().sum()[None, None] if outputs.ess else w.new_empty(1, 0),
        error_variance=w.new_empty(1, 0),
        bounds=w.new_empty(1, 0),
        top_log_w=top_log_w[None],
        top_key=torch.where(top_log_w > -math.inf, numbers[top_key], -1)[None],
        keys_evaluated=(log_w > -math.inf).sum()[None],
    )
