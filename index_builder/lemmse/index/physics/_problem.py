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
from lemmse.index.physics.spectrum import Spectrum

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
    """Content of the FILE of a specification, unchanged, as "kernel" or "mask", and as "noise" the power of
    the spectrum; empty if there is none."""
    spectrum: Spectrum | None = field(repr=False)
    """Power spectrum of the noise; None if it is white."""
    _forward: Operator = field(repr=False)
    _backward: Operator = field(repr=False)

    @classmethod
    def parse(cls, physics: str, pre_inverse: str, spectrum: Spectrum | None = None) -> "InverseProblem":
        """Return the problem that two specifications define, reading the files that they name.

        Parameters
        ----------
        physics, pre_inverse : str
            Specifications of A and B; see `lemmse.index.physics`.
        spectrum : Spectrum, optional
            Power spectrum of the noise; by default it is white.

        Raises
        ------
        InvalidArgument
            A specification is invalid, or they cannot be combined.
        NotFound
            A file does not exist.
        """
        arrays: dict[str, NDArray[np.float64]] = {}

        def read(name: str, path: str) -> NDArray[np.float64]:
            arrays[name] = read_file(path)
            return arrays[name]

        forward, backward = _operators(physics, pre_inverse, read)
        if spectrum is not None:
            if not isinstance(backward, Convolution):
                raise InvalidArgument.of(
                    "noise",
                    f"expected none for pre-inverse {pre_inverse!r}, got {spectrum.name}; use identity",
                )
            arrays["noise"] = spectrum.power
        return cls(physics, pre_inverse, arrays, spectrum, forward, backward)

    @classmethod
    def restore(
        cls,
        physics: str,
        pre_inverse: str,
        arrays: Mapping[str, NDArray[np.float64]],
        noise: str | None = None,
    ) -> "InverseProblem":
        """Return the problem that two specifications and the `arrays` of their files define, reading no file.

        `noise` is the name of the spectrum of the noise; None if it is white.

        Raises
        ------
        DataLoss
            An array is missing.
        """

        def read(name: str, path: str) -> NDArray[np.float64]:
            if name not in arrays:
                raise DataLoss(f"the {name} of physics {physics!r} is missing; build the index again")
            return arrays[name]

        spectrum = None if noise is None else Spectrum(noise, read("noise", noise))
        return cls(physics, pre_inverse, arrays, spectrum, *_operators(physics, pre_inverse, read))

    def check(self, shape: Shape) -> None:
        """Raise InvalidArgument unless A, and the noise of B y, are defined for images of shape (H, W, C)."""
        self._forward.check(shape)
        if self.spectrum is None:
            return
        self.spectrum.require_channels(shape[2])
        height, width = self.spectrum.size
        if self.depends_on_size and (height < shape[0] or width < shape[1]):
            raise InvalidArgument.of(
                "noise",
                f"expected a spectrum of the images' size, {shape[0]}x{shape[1]}, or larger for pre-inverse "
                f"{self.pre_inverse!r}, got {height}x{width}",
            )

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

    def sample_noise(self, shape: Shape, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return noise e of mean variance 1 for a measurement of shape (H, W, C)."""
        return rng.standard_normal(shape) if self.spectrum is None else self.spectrum.sample(shape, rng)

    def variances(self, channels: int) -> NDArray[np.float64]:
        """Return the variance of the noise of y in each channel, in units of σ², (C,)."""
        if self.spectrum is None:
            return np.ones(channels)
        return np.broadcast_to(self.spectrum.power.mean(axis=(0, 1)), channels)

    @property
    def correlated_pixels(self) -> float:
        """What correlation multiplies the variance of the mean square of the noise of an image by."""
        if self.spectrum is None:
            return 1.0
        power = self.spectrum.power
        return float(np.square(power).mean() / np.square(power.mean(axis=(0, 1))).mean())

    @property
    def digest(self) -> str:
        """SHA-256 of the specifications and the arrays, in hexadecimal."""
        digest = hashlib.sha256(f"{self.physics} {self.pre_inverse}".encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def denoises(self) -> bool:
        """Whether A = B = I, so that the keys are patches of the clean images, or these whitened."""
        return (self.physics, self.pre_inverse) == ("identity", "identity")

    @property
    def white(self) -> bool:
        """Whether the noise in a patch of B y is white: that of y is, and B = I."""
        return isinstance(self._backward, identity.Identity) and self.spectrum is None

    @property
    def depends_on_size(self) -> bool:
        """Whether the noise in a patch depends on the size of the image: if B is a convolution, not I."""
        return self.stationary and not isinstance(self._backward, identity.Identity)

    @property
    def summary(self) -> str:
        """The problem in words, for messages: nothing of the files."""
        noise = "" if self.spectrum is None else ", with correlated noise"
        return f"physics {self.physics} and pre-inverse {self.pre_inverse}{noise}"

    @property
    def stationary(self) -> bool:
        """Whether B is a convolution or the identity, so that the noise is the same in all patches."""
        return isinstance(self._backward, Convolution)

    def covariance(self, shape: Shape, p: int, p_z: int = 1) -> NDArray[np.float64]:
        """Return S for a stationary B: the noise in a patch has covariance σ² S.

        It is Q Qᵀ if the noise of y is white.

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
            The patch is larger than the image, or than the spectrum.

        Examples
        --------
        >>> problem = InverseProblem.parse("blur:gaussian:0.5", "wiener:0.1")
        >>> problem.covariance((8, 8, 3), 2).shape
        (12, 12)
        """
        if not isinstance(self._backward, Convolution):
            raise TypeError(f"expected a stationary pre-inverse, got {self.pre_inverse!r}")
        if self.spectrum is not None and not self.depends_on_size:
            height, width = self.spectrum.size
            if p > min(height, width):
                raise InvalidArgument.of(
                    "noise", f"expected a spectrum, or frames, of {p}x{p} or more, got {height}x{width}"
                )
            shape = (height, width, shape[2])
        return noise.patch_covariance(self._backward, shape, p, p_z, self.spectrum)

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
            message then names a pre-inverse whose noise can be whitened, if there is one and the noise of y
            is white.
        """
        covariance = self.covariance(shape, p, p_z)
        try:
            return noise.whitening(covariance)
        except InvalidArgument as error:
            if self.spectrum is not None:
                found = error.expected.partition(";")[0]
                raise InvalidArgument.of(
                    "noise", f"{found}; add some white noise to the spectrum, or use a smaller patch"
                ) from error
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
