"""The identity, as physics (denoising) and as pre-inverse (physics-agnostic)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.index.physics._operators import Convolution
from lemmse.index.physics._spec import PhysicsKind, PreInverseKind, Read, Spec

__all__ = ["PHYSICS", "PRE_INVERSE", "Identity"]


@dataclass(frozen=True, slots=True)
class Identity(Convolution):
    """The identity operator."""

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the image itself."""
        return x

    def transfer(self, height: int, width: int) -> NDArray[np.complex128]:
        """Return 1 at all frequencies."""
        return np.ones((height, width // 2 + 1), np.complex128)


def _parse(spec: Spec) -> Identity:
    if spec.words != ["identity"]:
        raise spec.error("identity without parameters")
    return Identity()


def _parse_physics(spec: Spec, read: Read) -> Identity:
    return _parse(spec)


def _parse_pre_inverse(spec: Spec, forward: object) -> Identity:
    return _parse(spec)


PHYSICS = PhysicsKind(("identity",), _parse_physics)
PRE_INVERSE = PreInverseKind(("identity",), None, _parse_pre_inverse)
