"""Pre-inverses of a blur: the inverse, and the better conditioned Wiener filter."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.index.physics._operators import Convolution
from lemmse.index.physics._spec import PreInverseKind, Spec
from lemmse.index.physics.blur import Blur
from lemmse.index.physics.noise import CONDITION_LIMIT, condition_number, patch_covariance

__all__ = ["INVERSE", "WIENER", "Inverse", "Wiener", "best_conditioned"]

_OFFSET = 1e-7
"""Added to the transfer function of the blur, to keep the inverse finite where it is 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Inverse(Convolution):
    """The inverse 1 / (H + 1e-7) of a blur."""

    blur: Blur
    """The blur, with transfer function H."""

    def transfer(self, height: int, width: int) -> NDArray[np.complex128]:
        """Return 1 / (H + 1e-7)."""
        return 1 / (self.blur.transfer(height, width) + _OFFSET)


@dataclass(frozen=True, slots=True, eq=False)
class Wiener(Convolution):
    """The Wiener filter conj(H) / (|H|² + λ) of a blur."""

    blur: Blur
    """The blur, with transfer function H."""
    lam: float
    """λ, the noise to signal ratio, > 0."""

    def transfer(self, height: int, width: int) -> NDArray[np.complex128]:
        """Return conj(H) / (|H|² + λ)."""
        transfer = self.blur.transfer(height, width)
        return transfer.conj() / (np.abs(transfer) ** 2 + self.lam)


def best_conditioned(blur: Blur, size: tuple[int, int], p: int) -> Wiener | None:
    """Return the Wiener filter with the best conditioned noise in a patch, for λ = 1e-12, 1e-11, … 1.

    A small λ amplifies the frequencies that the blur suppresses; a large λ suppresses them.

    Returns
    -------
    Wiener or None
        None if no filter yields noise that can be whitened, because the blur is too wide for the patch.
    """
    filters = [Wiener(blur, float(f"1e{exponent}")) for exponent in range(-12, 1)]
    conditions = [condition_number(patch_covariance(wiener, (*size, 1), p)) for wiener in filters]
    least = min(conditions)
    return filters[conditions.index(least)] if least <= CONDITION_LIMIT else None


def _parse_inverse(spec: Spec, blur: Blur) -> Inverse:
    if spec.words != ["inverse"]:
        raise spec.error("inverse without parameters")
    return Inverse(blur)


def _parse_wiener(spec: Spec, blur: Blur) -> Wiener:
    match spec.words:
        case [_, word]:
            return Wiener(blur, spec.number(word, "LAMBDA"))
    raise spec.error("wiener:LAMBDA")


INVERSE = PreInverseKind(("inverse",), "blur", _parse_inverse)
WIENER = PreInverseKind(("wiener:LAMBDA",), "blur", _parse_wiener)
