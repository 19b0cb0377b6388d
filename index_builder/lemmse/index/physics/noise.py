"""The noise in a patch after a stationary pre-inverse: its covariance S and the whitening W.

S is the correlation of B e on the patch: the inverse Fourier transform of |H|² times the spectrum of e, H
being the transfer function of B; for white noise e, the autocorrelation of the kernel of B. For the computed
W, ‖W S Wᵀ − I‖ is about 1e-16 times the condition number of S, which determines whether S can be whitened.
All computations are in float64; whitened keys can be float32, as their noise is the same in all directions.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.physics._operators import Convolution
from lemmse.index.physics.spectrum import Spectrum

__all__ = ["CONDITION_LIMIT", "Whitening", "condition_number", "patch_covariance", "whitening"]

CONDITION_LIMIT = 1e12
"""Largest accepted condition number of S, for which whitened noise is white to about 1e-4."""


@dataclass(frozen=True, slots=True)
class Whitening:
    """The linear map W that whitens the noise in a patch: W S Wᵀ = I."""

    matrix: NDArray[np.float64]
    """W = S^(−1/2), symmetric, float64, (P, P)."""
    condition: float
    """Condition number of S: ratio of its largest to its smallest eigenvalue."""


def whitening(covariance: NDArray[np.float64]) -> Whitening:
    """Return the whitening of noise of covariance S.

    W is the symmetric inverse root, which is unique, also if eigenvalues are repeated.

    Parameters
    ----------
    covariance : ndarray, float64, (P, P)
        S, symmetric; noise of standard deviation σ has covariance σ² S.

    Raises
    ------
    InvalidArgument
        S is not positive definite at working precision: its condition number exceeds `CONDITION_LIMIT`.

    Examples
    --------
    >>> whitening(np.diag([4.0, 1.0]))
    Whitening(matrix=array([[0.5, 0. ], [0. , 1. ]]), condition=4.0)
    """
    values, vectors = np.linalg.eigh(covariance)
    condition = _condition(values)
    if not condition <= CONDITION_LIMIT:
        raise InvalidArgument.of(
            "pre-inverse",
            f"expected noise of condition number <= {CONDITION_LIMIT:.0e} in a patch, got {condition:.1e}; "
            "use pre-inverse identity or a smaller patch",
        )
    matrix = (vectors / np.sqrt(values)) @ vectors.T
    return Whitening((matrix + matrix.T) / 2, condition)


def patch_covariance(
    convolution: Convolution,
    shape: tuple[int, int, int],
    p: int,
    p_z: int = 1,
    spectrum: Spectrum | None = None,
) -> NDArray[np.float64]:
    """Return S for patches of side p in p_z planes of the output of a convolution, float64, (P, P).

    Its input is white noise, for which S = Q Qᵀ, or noise of a spectrum.

    Raises
    ------
    InvalidArgument
        The patch is larger than the image, so that its pixels would repeat and S would be singular.
    """
    height, width, channels = shape
    if p > min(height, width):
        raise InvalidArgument.of(
            "patch-size", f"expected at most {min(height, width)}, the image's side, got {p}"
        )
    power = np.abs(convolution.transfer(height, width))[..., None] ** 2
    if spectrum is not None:
        power = power * spectrum.at(height, width)
    correlation = np.fft.irfft2(power, s=(height, width), axes=(0, 1))
    # Remove the rounding error: the correlation is even.
    correlation = (correlation + np.roll(correlation[::-1, ::-1], 1, axis=(0, 1))) / 2
    lags = np.arange(p)[:, None] - np.arange(p)
    plane = correlation[lags[:, None, :, None], lags[None, :, None, :]].reshape(p * p, p * p, -1)
    plane = plane[:, None] * np.eye(channels)[:, None]  # (p², C, p², C): channels are independent
    return np.kron(np.eye(p_z), plane.reshape(p * p * channels, -1)).astype(np.float64, copy=False)


def condition_number(covariance: NDArray[np.float64]) -> float:
    """Return the ratio of the largest to the smallest eigenvalue of S; infinity if that is not positive."""
    return _condition(np.linalg.eigvalsh(covariance))


def _condition(values: NDArray[np.floating]) -> float:
    """Return the condition number for eigenvalues in ascending order."""
    return float(values[-1] / values[0]) if values[0] > 0 else math.inf
