"""The inverse problem of an index, made from its two specifications."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import DataLoss, InvalidArgument
from lemmse.index.physics import blur, deblurring, identity, inpaint, masking, noise
from lemmse.index.physics._operators import Convolution, Diagonal, Operator, Shape
from lemmse.index.physics._spec import PhysicsKind, PreInverseKind, Read, Spec, read_file

__all__ = ["PHYSICS", "PRE_INVERSES", "InverseProblem"]

_PHYSICS: Mapping[str, PhysicsKind] = {
    "identity": identity.PHYSICS,
    "blur": blur.PHYSICS,
    "inpaint": inpaint.PHYSICS,
}
_PRE_INVERSES: Mapping[str, PreInverseKind] = {
    "identity": identity.PRE_INVERSE,
    "mask": masking.MASK,
    "epsilon": masking.EPSILON,
    "inverse": deblurring.INVERSE,
    "wiener": deblurring.WIENER,
}

PHYSICS = tuple(form for kind in _PHYSICS.values() for form in kind.forms)
"""Forms of the specifications of A."""
PRE_INVERSES = tuple(form for kind in _PRE_INVERSES.values() for form in kind.forms)
"""Forms of the specifications of B."""


@dataclass(frozen=True, slots=True, eq=False)
class InverseProblem:
    """The forward operator A, the pre-inverse B, and the noise of a patch of B y.

    Construct it with `parse` or `restore`. Images are (H, W, C), with any H and W that `check` accepts.

    Examples
    --------
    >>> problem = InverseProblem.parse("inpaint:center:2", "mask")
    >>> problem.measure(np.full((4, 4, 1), 0.5))[1, :, 0]
    array([0.5, 0. , 0. , 0.5])
    >>> problem.stationary, problem.white
    (False, False)
    """

    physics: str
    """Specification of A, as the user wrote it."""
    pre_inverse: str
    """Specification of B, as the user wrote it."""
    arrays: Mapping[str, NDArray[np.float64]]
    """Content of the FILE of a specification, unchanged, as "kernel" or "mask"; empty if there is none."""
    _forward: Operator = field(repr=False)
    _backward: Operator = field(repr=False)

    @classmethod
    def parse(cls, physics: str, pre_inverse: str) -> "InverseProblem":
        """Return the problem that two specifications define, reading the files that they name.

        Parameters
        ----------
        physics, pre_inverse : str
            Specifications of A and B; see `lemmse.index.physics`.

        Raises
        ------
        InvalidArgument
            A specification is invalid, or the two cannot be combined.
        NotFound
            A file does not exist.
        """
        arrays: dict[str, NDArray[np.float64]] = {}

        def read(name: str, path: str) -> NDArray[np.float64]:
            arrays[name] = read_file(path)
            return arrays[name]

        return cls(physics, pre_inverse, arrays, *_operators(physics, pre_inverse, read))

    @classmethod
    def restore(
        cls, physics: str, pre_inverse: str, arrays: Mapping[str, NDArray[np.float64]]
    ) -> "InverseProblem":
        """Return the problem that two specifications and the `arrays` of their files define, reading no file.

        Raises
        ------
        DataLoss
            An array is missing.
        """

        def read(name: str, path: str) -> NDArray[np.float64]:
            if name not in arrays:
                raise DataLoss(f"the {name} of physics {physics!r} is missing; build the index again")
            return arrays[name]

        return cls(physics, pre_inverse, arrays, *_operators(physics, pre_inverse, read))

    def check(self, shape: Shape) -> None:
        """Raise InvalidArgument unless A is defined on images of shape (H, W, C)."""
        self._forward.check(shape)

    def measure(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return A x.

        Parameters
        ----------
        x : ndarray, any real dtype, (H, W, C)
            Clean image.

        Returns
        -------
        ndarray, float64, (H, W, C)
            A x; for the identity, x itself.
        """
        return self._forward.apply(x)

    def pre_invert(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return B y.

        Parameters
        ----------
        y : ndarray, any real dtype, (H, W, C)
            Measurement; pixels that B multiplies by 0 may have any value, including NaN.

        Returns
        -------
        ndarray, float64, (H, W, C)
            B y; for the identity, y itself.
        """
        return self._backward.apply(y)

    @property
    def digest(self) -> str:
        """SHA-256 of the specifications and the arrays, in hexadecimal."""
        digest = hashlib.sha256(f"{self.physics} {self.pre_inverse}".encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def denoises(self) -> bool:
        """Whether A = B = I, so that the keys are patches of the clean images."""
        return (self.physics, self.pre_inverse) == ("identity", "identity")

    @property
    def white(self) -> bool:
        """Whether B = I, so that the noise is white."""
        return isinstance(self._backward, identity.Identity)

    @property
    def stationary(self) -> bool:
        """Whether B is a convolution or the identity, so that the noise is the same in all patches."""
        return isinstance(self._backward, Convolution)

    def covariance(self, shape: Shape, p: int, p_z: int = 1) -> NDArray[np.float64]:
        """Return S = Q Qᵀ for a stationary B: the noise in a patch has covariance σ² S.

        Parameters
        ----------
        shape : tuple of int
            (H, W, C) of the images.
        p : int
            Side of the patches, in pixels.
        p_z : int
            Number of planes of the patches, which B maps one by one.

        Returns
        -------
        ndarray, float64, (P, P)
            S in the order plane, row, column, channel; planes and channels are independent.

        Raises
        ------
        InvalidArgument
            The patch is larger than the image.

        Examples
        --------
        >>> problem = InverseProblem.parse("blur:gaussian:0.5", "wiener:0.1")
        >>> problem.covariance((8, 8, 3), 2).shape
        (12, 12)
        """
        if not isinstance(self._backward, Convolution):
            raise TypeError(f"expected a stationary pre-inverse, got {self.pre_inverse!r}")
        return noise.patch_covariance(self._backward, shape, p, p_z)

    def scale(self, shape: Shape) -> NDArray[np.float64]:
        """Return the diagonal of a B that is not stationary, (H, W, C): 1 where observed, else 0 or ε."""
        if not isinstance(self._backward, Diagonal):
            raise TypeError(f"expected a diagonal pre-inverse, got {self.pre_inverse!r}")
        return self._backward.diagonal(shape)

    def whitening(self, shape: Shape, p: int, p_z: int = 1) -> noise.Whitening:
        """Return W with W S Wᵀ = I, where S is the `covariance` of a stationary B.

        Parameters
        ----------
        shape : tuple of int
            (H, W, C) of the images.
        p : int
            Side of the patches, in pixels.
        p_z : int
            Number of planes of the patches.

        Raises
        ------
        InvalidArgument
            The patch is larger than the image, or S is not positive definite at working precision; the
            message then names a pre-inverse whose noise can be whitened, if there is one.
        """
        covariance = self.covariance(shape, p, p_z)
        try:
            return noise.whitening(covariance)
        except InvalidArgument as error:
            if not isinstance(self._forward, blur.Blur):
                raise
            wiener = deblurring.best_conditioned(self._forward, shape[:2], p)
            if wiener is None:
                raise
            raise InvalidArgument.of(error.argument, f"{error.expected}, or wiener:{wiener.lam:g}") from error


def _operators(physics: str, pre_inverse: str, read: Read) -> tuple[Operator, Operator]:
    """Return the operators A and B."""
    spec, inverse_spec = Spec("physics", physics), Spec("pre-inverse", pre_inverse)
    name = spec.words[0]
    if name not in _PHYSICS:
        raise spec.error(f"one of {', '.join(PHYSICS)}")
    kind = _PRE_INVERSES.get(inverse_spec.words[0])
    if kind is None:
        raise inverse_spec.error(f"one of {', '.join(PRE_INVERSES)}")
    if kind.physics not in (None, name):
        raise InvalidArgument.of(
            "pre-inverse",
            f"expected physics {kind.physics} for {pre_inverse!r}, got {physics!r}; use identity",
        )
    forward = _PHYSICS[name].parse(spec, read)
    return forward, kind.parse(inverse_spec, forward)
