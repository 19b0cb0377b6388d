"""The inverse problem y = A x + e that an index answers: the forward operator A and the pre-inverse B.

The builder cuts its keys from B A x, the estimator its queries from B y; both call the one object that is
made from the two specifications in the manifest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.index.errors import InvalidArgument

__all__ = ["PHYSICS", "PRE_INVERSES", "InverseProblem"]

PHYSICS = ("identity",)
PRE_INVERSES = ("identity",)


@dataclass(frozen=True, slots=True)
class InverseProblem:
    """An inverse problem.

    Examples
    --------
    >>> problem = InverseProblem("identity", "identity")
    >>> problem.pre_invert(np.ones((2, 2, 1))).shape
    (2, 2, 1)
    """

    physics: str = "identity"
    """Specification of A."""
    pre_inverse: str = "identity"
    """Specification of B."""

    def __post_init__(self) -> None:
        for argument, spec, known in (
            ("physics", self.physics, PHYSICS),
            ("pre-inverse", self.pre_inverse, PRE_INVERSES),
        ):
            if spec not in known:
                raise InvalidArgument(argument, f"expected one of {', '.join(known)}, got {spec!r}")

    def measure(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """A x, noiseless, of an image of shape (H, W, C)."""
        return x

    def pre_invert(self, y: NDArray[np.float32]) -> NDArray[np.float32]:
        """B y, of a measurement of shape (H, W, C)."""
        return y
