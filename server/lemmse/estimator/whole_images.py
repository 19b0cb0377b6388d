"""MMSE and E-MMSE: the sums over whole training images and their translations.

With a_k = A x_k and the precision λ = 1/s² of each pixel and channel of y (0 where nothing was observed):

**MMSE** weighs images,

    log w_k = −½ Σ_q λ[q] (y[q] − a_k[q])²,                     x̂ = Σ_k w_k x_k / Σ_k w_k.

**E-MMSE** is LE-MMSE whose patch is the whole torus. The query at n holds y[n + r] with its precision
λ[n + r], the key at m holds a_k[m + r], for all r; with q = n + r and the shift s = m − n,

    log w_k(s) = −½ Σ_q λ[q] (y[q] − a_k[q + s])²,              x̂[n] = Σ_ks w_k(s) x_k[n + s] / Σ_ks w_k(s).

Neither n nor m is left: with a map of precisions too there is one posterior over (k, s) for all pixels, one
effective sample size and one density. All of it is circular correlation, hence FFTs.

The pre-inverse B. An invertible one changes no weight of MMSE, and a convolution none of E-MMSE, since it
commutes with translations: both sides are transformed alike. A diagonal one, B = diag(b), moves with the
key: the noise in the patch at m is that of b[m + r], so

    log w_k(s) = −½ Σ_q λ[q] (b[q] y[q] / b[q + s] − a_k[q + s])²,

with a determinant that is the same for all s. Where b is 0 (a mask) only the shifts count that map the mask
to itself, and only unmasked pixels are compared. At s = 0 that is MMSE.
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
"""Pixels of the training images processed at once: 8 MB in each of some ten temporaries."""


class WholeImages:
    """Training images of one size, ready for MMSE and E-MMSE.

    All sums are in float64: at σ = 0.001 a product in float32 would move log w by more than 1.

    Parameters
    ----------
    images : float, (K, H, W, C)
        The clean training images x_k.
    measured : float, (K, H, W, C)
        A x_k, not pre-inverted; the same array where A is the identity.
    device : torch.device
        Where to compute.
    scale : float, (H, W, C), optional
        The diagonal of B, where B is diagonal; 0 where it masks. Without it B is the identity or a
        convolution, which changes nothing.

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
    ) -> PosteriorSums:
        """Return the sums over all images, or over all their translations, for one measurement.

        Parameters
        ----------
        y : float, (H, W, C)
            The measurement, not pre-inverted, of the size of the training images; any number, or NaN, where
            the precision is 0.
        precision : float or (H, W, C)
            λ = 1/s², s the standard deviation of the noise in each pixel and channel, in intensity units; 0
            where nothing was observed.
        spec : SumSpec
            Its outputs, other than bounds and patch.
        equivariant : bool
            Whether all translations of each image count (E-MMSE), or each image as it is (MMSE).

        Returns
        -------
        PosteriorSums
            For one query (Q = 1) whose target is the whole image, T = H·W·C, flattened row, column, channel.
            log Σ w is the log density of the observed, unmasked pixels of y, in which each of the M keys that
            count has a share 1/M of the prior. Key numbers are k for MMSE and k·H·W + s for E-MMSE, where the
            shift s counts row by row and pixel n takes its value from x_k[n + s].

        Raises
        ------
        InvalidArgument
            y has not the size of the training images.
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
        for first in range(0, len(self._x), step):
            raise_if_cancelled(spec.cancelled)
            sums = sums.merge(block_sums(first, first + step))
        counted = lam[(lam > 0) & (self._b != 0)]
        log_norm = 0.5 * (counted / (2 * math.pi)).log().sum()
        sums = sums.shift(log_norm - sums.keys_evaluated.double().log())
        return sums.with_exact_errors(y.size, spec.outputs)

    def _tensor(self, array: NDArray[np.floating]) -> Tensor:
        """Return an array (H, W, C) as float64, (C, H, W)."""
        return torch.tensor(array, dtype=torch.float64, device=self._x.device).movedim(-1, 0).contiguous()

    def _images(self, y: Tensor, lam: Tensor, outputs: Outputs) -> "_BlockSums":
        """Return a function that sums over the images of a block, for MMSE."""
        compared = (lam * (self._b != 0)).flatten()

        def block_sums(start: int, stop: int) -> PosteriorSums:
            x, a = _planes(self._x[start:stop]), _planes(self._a[start:stop])
            log_w = -0.5 * ((y - a).square_().flatten(1) @ compared)  # (B,)
            w = (log_w - log_w.max()).exp_()
            targets = [x, x.square()] if outputs.variance else [x]
            return _sums(log_w, w, [torch.tensordot(w, t, dims=1) for t in targets], outputs, start)

        return block_sums

    def _translations(self, y: Tensor, lam: Tensor, outputs: Outputs) -> "_BlockSums":
        """Return a function that sums over all translations of the images of a block, for E-MMSE."""
        size = y.shape[1:]
        unmasked = (self._b != 0).double()
        inverse = torch.where(self._b != 0, 1 / self._b, 0.0)
        # The square in log w expands into one correlation for each power of a; the first is a term of the
        # shift alone. Hats are Fourier transforms, over which a correlation is a product.
        by_shift = _ifft(_fft(-0.5 * lam * (self._b * y).square()).conj() * _fft(inverse.square()), size).sum(
            0
        )
        linear, quadratic = _fft(lam * self._b * y).conj(), _fft(-0.5 * lam).conj()
        # Unmasked pixels that the shift would compare with masked ones.
        unlike = _ifft(_fft(unmasked).conj() * _fft(1 - unmasked), size).sum(0)  # (H, W)
        by_shift = by_shift.where(unlike < 0.5, -math.inf)

        def block_sums(start: int, stop: int) -> PosteriorSums:
            x, a = _planes(self._x[start:stop]), _planes(self._a[start:stop])
            scores_hat = (linear * _fft(a * inverse)).add_(quadratic * _fft(a.square() * unmasked)).sum(1)
            log_w = _ifft(scores_hat, size).add_(by_shift)  # (B, H, W)
            w = (log_w - log_w.max()).exp_()
            w_hat = _fft(w).conj()[:, None]
            targets = [x, x.square()] if outputs.variance else [x]
            means = [_ifft((w_hat * _fft(t)).sum(0), size) for t in targets]  # Σ_ks w_k(s) t_k[n + s]
            return _sums(log_w.flatten(), w, means, outputs, start * size.numel())

        return block_sums


_BlockSums = Callable[[int, int], PosteriorSums]
"""Returns the sums over the images start … stop − 1."""


def _planes(images: Tensor) -> Tensor:
    """Return images (B, H, W, C) as float64, (B, C, H, W)."""
    return images.movedim(-1, 1).to(torch.float64, memory_format=torch.contiguous_format)


def _fft(x: Tensor) -> Tensor:
    x_hat: Tensor = torch.fft.rfft2(x)
    return x_hat


def _ifft(x_hat: Tensor, size: torch.Size) -> Tensor:
    x: Tensor = torch.fft.irfft2(x_hat, s=size)
    return x


def _sums(log_w: Tensor, w: Tensor, means: list[Tensor], outputs: Outputs, first: int) -> PosteriorSums:
    """Return the sums over one block, whose m keys are numbered from `first`; log_w is (m,)."""
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
        top_key=torch.where(top_log_w > -math.inf, top_key + first, -1)[None],
        keys_evaluated=(log_w > -math.inf).sum()[None],
    )
