"""Pre-inverses of inpainting: the mask itself, and the ε-inverse."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.index.physics._operators import Diagonal, Shape
from lemmse.index.physics._spec import PreInverseKind, Spec
from lemmse.index.physics.inpaint import Inpaint

__all__ = ["EPSILON", "MASK", "Masking"]


@dataclass(frozen=True, slots=True, eq=False)
class Masking(Diagonal):
    """The operator that keeps observed pixels and scales missing pixels, which contain only noise."""

    inpaint: Inpaint
    """The inpainting operator."""
    epsilon: float
    """Factor ε for missing pixels; 0 gives the mask itself, which is singular."""

    def diagonal(self, shape: Shape) -> NDArray[np.float64]:
        """Return 1 where observed, ε where missing."""
        return np.where(self.inpaint.diagonal(shape) != 0, 1.0, self.epsilon)


def _parse_mask(spec: Spec, inpaint: Inpaint) -> Masking:
    if spec.words != ["mask"]:
        raise spec.error("mask without parameters")
    return Masking(inpaint, 0.0)


def _parse_epsilon(spec: Spec, inpaint: Inpaint) -> Masking:
    match spec.words:
        case [_, word]:
            # Whitening divides by ε again; a much smaller ε would lose digits.
            return Masking(inpaint, spec.number(word, "EPS", above=1e-12, at_most=1))
    raise spec.error("epsilon:EPS")


MASK = PreInverseKind(("mask",), "inpaint", _parse_mask)
EPSILON = PreInverseKind(("epsilon:EPS",), "inpaint", _parse_epsilon)
