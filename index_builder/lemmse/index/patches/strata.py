"""Strata: sets of positions whose patches have noise of the same covariance.

The noise in the patch at m has covariance σ² Q_m Q_mᵀ, where Q_m = Π_m B. Keys and queries are whitened, so
that the noise is white for every B:

    B = I              one stratum, the noise is white
    B a convolution    one stratum, S = Q Qᵀ, patches are multiplied by a matrix W with W S Wᵀ = I; likewise
                       if the noise has a spectrum, with the S that follows from it
    B = diag(d)        one stratum for each pattern of d in a patch; patches are divided by the pattern, and
                       pixels where it is 0 are not observed

With offset equivariance, the level of a whitened patch is subtracted: its least-squares projection onto E,
the whitened patches of images that are 1 in one channel. The noise of the residual is independent of the
noise of the level.

If d has zeros (a mask), the Gaussian of a key is supported on the observed pixels only, and a query is
compared with the keys of its own stratum. Otherwise a query is compared with all keys, each with the density
of its stratum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.images.stack import Images, centres
from lemmse.index.physics import InverseProblem

__all__ = ["Strata", "TrainingStrata", "training_strata"]

_ROUNDING = 1e-9
"""Largest relative deviation of B A x from a constant, for a constant image x."""


@dataclass(frozen=True)
class Strata:
    """The strata of an index."""

    scale: NDArray[np.float64]
    """Diagonal of B in the patches of each stratum, float64, (S, P); 1 unless B is diagonal."""
    whitener: NDArray[np.float64] | None
    """W with W S Wᵀ = I, (P, P), if B is a convolution or the noise has a spectrum; otherwise None."""
    constants: NDArray[np.float64] | None
    """E, the whitened patches of images that are 1 in one channel, (P, C), if levels are subtracted."""

    def __len__(self) -> int:
        """Return the number of strata, S."""
        return len(self.scale)

    @cached_property
    def exclusive(self) -> bool:
        """Whether a query is compared only with the keys of its own stratum."""
        return bool((self.scale == 0).any())

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """Dimension of the noise in each stratum: observed pixels, minus C if levels are subtracted, (S,)."""
        rank: NDArray[np.int64] = (self.scale != 0).sum(axis=1)
        if self.constants is not None:
            rank -= self.constants.shape[1]
        return rank

    @cached_property
    def log_pdet(self) -> NDArray[np.float64]:
        """Log pseudo-determinant of Q_m Q_mᵀ, or of its part without the level, for each stratum, (S,)."""
        log_det: NDArray[np.float64] = 2 * np.log(np.where(self.scale == 0, 1.0, self.scale)).sum(axis=1)
        if self.whitener is None:
            return log_det
        if self.constants is None:
            log_det -= 2 * np.linalg.slogdet(self.whitener)[1]
            return log_det
        # After the level is removed, the noise is this matrix times white noise.
        root = np.linalg.solve(self.whitener, self.beside_constants)
        log_det += np.linalg.slogdet(root.T @ root)[1]
        return log_det

    @cached_property
    def unwhitener(self) -> NDArray[np.float64] | None:
        """W⁻¹, (P, P), by which whitened patches become what they were; None if they are not whitened."""
        if self.whitener is None:
            return None
        return np.asarray(np.linalg.inv(self.whitener), np.float64)

    @cached_property
    def divisor(self) -> NDArray[np.float64]:
        """What patches of each stratum are divided by, ∞ where nothing was observed, (S, P)."""
        return np.where(self.scale == 0, np.inf, self.scale)

    @property
    def level_variance(self) -> NDArray[np.float64]:
        """Variance of the noise in `levels`, in units of σ², (C,)."""
        variance: NDArray[np.float64] = 1 / np.square(self._constants).sum(axis=0)
        return variance

    @cached_property
    def beside_constants(self) -> NDArray[np.float64]:
        """Orthonormal basis of the patches of level 0, in columns, (P, P − C)."""
        axes: NDArray[np.float64] = np.linalg.qr(self._constants, mode="complete")[0]
        return axes[:, self._constants.shape[1] :]

    def whiten(self, patches: NDArray[np.floating], stratum: int) -> NDArray[np.float32]:
        """Return whitened patches, in which the noise is white with standard deviation σ.

        If `constants` is not None, the level of the patches is subtracted.

        Parameters
        ----------
        patches : float, (n, P)
            Patches of B y or B A x.
        stratum : int
            Their stratum.

        Returns
        -------
        ndarray, float32, (n, P)
        """
        return self.whiten_precisely(patches, stratum).astype(np.float32)

    def whiten_precisely(self, patches: NDArray[np.floating], stratum: int) -> NDArray[np.float64]:
        """Return whitened patches like `whiten`, before they are rounded to float32."""
        white = self._white(patches, stratum)
        return white if self.constants is None else white - self._level(white) @ self.constants.T

    def levels(self, patches: NDArray[np.floating], stratum: int) -> NDArray[np.float64]:
        """Return the level of patches in each channel: the least-squares estimate of a constant in x.

        Parameters
        ----------
        patches : float, (n, P)
            Patches of B y or B A x.
        stratum : int
            Their stratum.

        Returns
        -------
        ndarray, float64, (n, C)
            In intensities of x.
        """
        return self._level(self._white(patches, stratum))

    def _white(self, patches: NDArray[np.floating], stratum: int) -> NDArray[np.float64]:
        white: NDArray[np.float64] = patches / self.divisor[stratum]
        return white if self.whitener is None else white @ self.whitener.T

    def _level(self, white: NDArray[np.float64]) -> NDArray[np.float64]:
        # The columns of E are orthogonal, one per channel. Division comes last, so that equal pixels give
        # exactly 0.
        level: NDArray[np.float64] = white @ self._constants / np.square(self._constants).sum(axis=0)
        return level

    @property
    def _constants(self) -> NDArray[np.float64]:
        if self.constants is None:
            raise TypeError("expected strata whose patches are without their level")
        return self.constants

    def whiteness_error(self, covariance: NDArray[np.float64]) -> float:
        """Return the largest absolute entry of W S Wᵀ − I for another covariance S, (P, P)."""
        if self.whitener is None:
            return 0.0
        return float(np.abs(self.whitener @ covariance @ self.whitener.T - np.eye(len(covariance))).max())

    def of(self, scale: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the stratum of each pattern of the diagonal of B, (n, P), or −1 if there is none, (n,)."""
        return np.array([self._number.get(row.tobytes(), -1) for row in scale], np.int64)

    @cached_property
    def _number(self) -> dict[bytes, int]:
        return {row.tobytes(): number for number, row in enumerate(self.scale)}


@dataclass(frozen=True)
class TrainingStrata:
    """The strata of the training patches; the stratum of a position depends on the size of the image."""

    strata: Strata
    channels: int
    """Number of channels of the images, C."""
    by_size: Mapping[tuple[int, int], NDArray[np.int64]]
    """Stratum of each training patch of an image, by height and width of the image."""
    centres: Mapping[tuple[int, int], NDArray[np.int64]]
    """Position of the centre of each training patch in its image, by height and width of the image."""
    condition: float
    """Condition number of the noise covariance S; 1 unless B is a convolution or the noise has a spectrum."""


def training_strata(
    problem: InverseProblem,
    sizes: Sequence[tuple[int, int]],
    channels: int,
    p: int,
    boundary: str,
    equivariance: str,
    stride: int,
    p_z: int,
) -> TrainingStrata:
    """Return the strata of the training patches of images with these sizes, patches of p_z planes.

    Raises
    ------
    InvalidArgument
        A is not defined for a size, or no image has a patch; B is a convolution and the images differ in
        size; the noise cannot be whitened; `equivariance` is offset and B A x is not constant for a
        constant x; or patches of a mask are compared only with those of the same pattern, and there are
        patterns that no training patch has.
    """
    shapes = [(height, width, channels) for height, width in sizes]
    for shape in shapes:
        problem.check(shape)
    own = {(height, width): centres(height, width, p, boundary, stride) for height, width in sizes}
    if not sum(map(len, own.values())):
        height, width = np.max(sizes, axis=0)
        raise InvalidArgument.of(
            "boundary", f"expected images of {p}x{p} or more for valid, got at most {height}x{width}"
        )
    constants = _constants(problem, shapes[0], p_z * p * p) if equivariance == "offset" else None
    ones = np.ones((1, p_z * p * p * channels))
    one_stratum = {size: np.zeros(len(n), np.int64) for size, n in own.items()}
    if problem.white:
        return TrainingStrata(Strata(ones, None, constants), channels, one_stratum, own, 1.0)
    if problem.stationary:
        if problem.depends_on_size and len(shapes) > 1:
            raise InvalidArgument.of(
                "pre-inverse",
                f"expected images of one size for {problem.pre_inverse}, got {len(shapes)} sizes; crop them",
            )
        white = problem.whitening(shapes[0], p, p_z)
        constants = None if constants is None else white.matrix @ constants
        strata = Strata(ones, white.matrix, constants)
        return TrainingStrata(strata, channels, one_stratum, own, white.condition)
    # Each position of each size has a pattern; positions with equal patterns are one stratum.
    patterns = [
        _scale(problem, shape, p_z).patches(n, p, boundary)
        for shape, n in zip(shapes, own.values(), strict=True)
    ]
    scale, number = np.unique(np.concatenate(patterns), axis=0, return_inverse=True)
    parts = np.split(number.reshape(-1), np.cumsum([len(n) for n in own.values()])[:-1])
    strata = Strata(scale, None, None)
    if strata.exclusive and (boundary == "valid" or stride > 1):
        _require_all(problem, shapes, p, p_z, boundary, stride, strata)
    return TrainingStrata(strata, channels, dict(zip(sizes, parts, strict=True)), own, 1.0)


def _require_all(
    problem: InverseProblem,
    shapes: Sequence[tuple[int, int, int]],
    p: int,
    p_z: int,
    boundary: str,
    stride: int,
    strata: Strata,
) -> None:
    """Raise InvalidArgument if a mask has patterns, at some position, that no training patch has."""
    for shape in shapes:
        everywhere = np.arange(shape[0] * shape[1])
        found = strata.of(_scale(problem, shape, p_z).patches(everywhere, p, boundary))
        if (found < 0).any():
            row, column = divmod(int(np.argmin(found)), shape[1])
            argument, expected, got, where = "boundary", "circular or reflect", "'valid'", "inside"
            if stride > 1:
                argument, expected, got, where = "stride", "1", str(stride), "at that stride"
            raise InvalidArgument.of(
                argument,
                f"expected {expected} for physics {problem.physics!r} and pre-inverse "
                f"{problem.pre_inverse!r}, got {got}: in images of {shape[0]}x{shape[1]} no patch {where} "
                f"misses the pixels that the one around ({row}, {column}) does",
            )


def _scale(problem: InverseProblem, shape: tuple[int, int, int], p_z: int) -> Images[np.float64]:
    """Return the diagonal of B as an image, the patches of which are the same in each of p_z planes."""
    return Images.stack([problem.scale(shape)], np.zeros((1, p_z), np.int64))


def _constants(problem: InverseProblem, shape: tuple[int, int, int], pixels: int) -> NDArray[np.float64]:
    """Return the patches of B A x for images x that are 1 in one channel, for each channel, (P, C)."""
    if problem.physics.partition(":")[0] == "inpaint" or not problem.stationary:
        raise InvalidArgument.of(
            "equivariance", f"expected physics identity or blur for offset, got {problem.physics!r}"
        )
    seen = problem.pre_invert(problem.measure(np.ones(shape)))
    level = float(seen.mean())
    if level == 0 or np.abs(seen - level).max() > _ROUNDING * abs(level):
        raise InvalidArgument.of(
            "equivariance",
            f"expected physics that keeps a constant image constant, and not 0, for offset, got a mean of "
            f"{level:g} and deviations of {np.abs(seen - level).max():g} for an image of ones",
        )
    return np.tile(level * np.eye(shape[2]), (pixels, 1))
