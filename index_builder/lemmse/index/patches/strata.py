"""Strata: the positions whose patches carry the same noise.

The noise in the patch at m has covariance σ² Q_m Q_mᵀ, where Q_m is the part of the pre-inverse B that the
patch sees. Keys and queries are whitened with it, so that the estimator meets white noise only, whatever B:

    B = I              one stratum, nothing to do
    B a convolution    one stratum, S = Q Qᵀ, patches are multiplied by a matrix W with W S Wᵀ = I
    B = diag(d)        one stratum for each pattern that d has in a patch; patches are divided by it, and
                       where it is zero nothing was observed

Where the estimator is to commute with offsets, a constant added to each channel of x, the level of a patch is
taken out once it is white: its least-squares projection onto E, what a 1 in each channel of x adds to it. The
noise of what is left does not depend on that of the level.

With zeros in d (a mask) the Gaussian of a key lives on the observed pixels only, and a key counts for a query
only if both observe the same ones: a query belongs to the stratum of its own pattern. Without zeros every key
counts for every query, each with the density of its own stratum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.images.stack import Images, centres
from lemmse.index.physics import InverseProblem
from lemmse.index.storage import zarr_store

__all__ = ["Layout", "Strata", "lay_out"]

_ROUNDING = 1e-9
"""What a constant image may be off by, of its level, once it was measured and pre-inverted."""


@dataclass(frozen=True)
class Strata:
    """The strata of an index."""

    scale: NDArray[np.float64]
    """Diagonal of B in the patches of each stratum, (S, P); 1 where B is no diagonal."""
    whitener: NDArray[np.float64] | None
    """W with W S Wᵀ = I, (P, P), where B is a convolution."""
    constants: NDArray[np.float64] | None
    """E, what a 1 in each channel of x adds to a white patch, (P, C), where patches lose their level."""

    def write(self, group: zarr.Group) -> None:
        """Store them."""
        for field in fields(self):
            array = getattr(self, field.name)
            if array is not None:
                zarr_store.write(group, f"strata/{field.name}", array)

    def __len__(self) -> int:
        """Number of strata, S."""
        return len(self.scale)

    @cached_property
    def exclusive(self) -> bool:
        """Whether a query finds its keys in one stratum only, that of its own pattern."""
        return bool((self.scale == 0).any())

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """Dimensions of the noise in each stratum: pixels that were observed, less C without levels, (S,)."""
        rank: NDArray[np.int64] = (self.scale != 0).sum(axis=1)
        if self.constants is not None:
            rank -= self.constants.shape[1]
        return rank

    @cached_property
    def log_pdet(self) -> NDArray[np.float64]:
        """The term log pdet of Q_m Q_mᵀ, or of its part without the level, in each stratum, (S,)."""
        log_det: NDArray[np.float64] = 2 * np.log(np.where(self.scale == 0, 1.0, self.scale)).sum(axis=1)
        if self.whitener is None:
            return log_det
        if self.constants is None:
            log_det -= 2 * np.linalg.slogdet(self.whitener)[1]
            return log_det
        # The noise without its level is this times white noise.
        root = np.linalg.solve(self.whitener, self.beside_constants)
        log_det += np.linalg.slogdet(root.T @ root)[1]
        return log_det

    @cached_property
    def _divisor(self) -> NDArray[np.float64]:
        return np.where(self.scale == 0, np.inf, self.scale)

    @property
    def level_variance(self) -> NDArray[np.float64]:
        """Variance of the noise in `levels`, in units of σ², (C,)."""
        variance: NDArray[np.float64] = 1 / np.square(self._constants).sum(axis=0)
        return variance

    @cached_property
    def beside_constants(self) -> NDArray[np.float64]:
        """Orthonormal directions of what is left of patches without their level, in columns, (P, P − C)."""
        axes: NDArray[np.float64] = np.linalg.qr(self._constants, mode="complete")[0]
        return axes[:, self._constants.shape[1] :]

    def whiten(self, patches: NDArray[np.floating], stratum: int) -> NDArray[np.float32]:
        """Patches with white noise of standard deviation σ where it was σ² Q_m Q_mᵀ, (n, P).

        Where there are `constants`, the patches are without their level.
        """
        white = self._white(patches, stratum)
        if self.constants is not None:
            white = white - self._level(white) @ self.constants.T
        return white.astype(np.float32)

    def levels(self, patches: NDArray[np.floating], stratum: int) -> NDArray[np.float64]:
        """The level of patches, in each channel: the least-squares estimate of a constant in x.

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
        white: NDArray[np.float64] = patches / self._divisor[stratum]
        return white if self.whitener is None else white @ self.whitener.T

    def _level(self, white: NDArray[np.float64]) -> NDArray[np.float64]:
        # Channels do not mix, so that the columns of E are orthogonal. Divided last, equal pixels leave 0.
        level: NDArray[np.float64] = white @ self._constants / np.square(self._constants).sum(axis=0)
        return level

    @property
    def _constants(self) -> NDArray[np.float64]:
        if self.constants is None:
            raise TypeError("expected strata whose patches are without their level")
        return self.constants

    def whiteness_error(self, covariance: NDArray[np.float64]) -> float:
        """Largest entry of W S Wᵀ − I for another S, (P, P): how far whitening it with this W is off."""
        if self.whitener is None:
            return 0.0
        return float(np.abs(self.whitener @ covariance @ self.whitener.T - np.eye(len(covariance))).max())

    def of(self, scale: NDArray[np.float64]) -> NDArray[np.int64]:
        """The stratum of each pattern of the diagonal of B, (n, P); −1 where there is none."""
        return np.array([self._number.get(row.tobytes(), -1) for row in scale], np.int64)

    @cached_property
    def _number(self) -> dict[bytes, int]:
        return {row.tobytes(): number for number, row in enumerate(self.scale)}


@dataclass(frozen=True)
class Layout:
    """Which stratum every patch of the training images is in: that depends on their sizes only."""

    strata: Strata
    channels: int
    """Channels of the images, C."""
    numbers: Mapping[tuple[int, int], NDArray[np.int64]]
    """Stratum of each patch of an image, by height and width of the image."""
    condition: float
    """Condition number of S; 1 without a convolution."""


def lay_out(
    problem: InverseProblem,
    sizes: Sequence[tuple[int, int]],
    channels: int,
    p: int,
    boundary: str,
    equivariance: str,
) -> Layout:
    """Tell the strata of the training patches of images of these sizes.

    Raises
    ------
    InvalidArgument
        A size cannot be meant, or none has a patch; B is a convolution, and the images differ in size or the
        noise cannot be whitened; or a constant is not seen the same at every position, where the estimator is
        to commute with offsets.
    """
    shapes = [(height, width, channels) for height, width in sizes]
    for shape in shapes:
        problem.check(shape)
    own = [centres(height, width, p, boundary) for height, width in sizes]
    if not sum(map(len, own)):
        height, width = np.max(sizes, axis=0)
        raise InvalidArgument.of(
            "boundary", f"expected images of {p}x{p} or more for valid, got at most {height}x{width}"
        )
    constants = _constants(problem, shapes[0], p) if equivariance == "offset" else None
    one = np.ones((1, p * p * channels))
    same = {size: np.zeros(len(n), np.int64) for size, n in zip(sizes, own, strict=True)}
    if problem.white:
        return Layout(Strata(one, None, constants), channels, same, 1.0)
    if problem.stationary:
        if len(shapes) > 1:
            raise InvalidArgument.of(
                "pre-inverse",
                f"expected images of one size for {problem.pre_inverse}, got {len(shapes)} sizes; crop them",
            )
        white = problem.whitening(shapes[0], p)
        constants = None if constants is None else white.matrix @ constants
        return Layout(Strata(one, white.matrix, constants), channels, same, white.condition)
    # A pattern for each position of each size; equal patterns are one stratum.
    patterns = [
        Images.stack([problem.scale(shape)]).patches(n, p, boundary)
        for shape, n in zip(shapes, own, strict=True)
    ]
    scale, number = np.unique(np.concatenate(patterns), axis=0, return_inverse=True)
    parts = np.split(number.reshape(-1), np.cumsum([len(n) for n in own])[:-1])
    strata = Strata(scale, None, None)
    if boundary == "valid" and strata.exclusive:
        _require_inside(problem, shapes, p, strata)
    return Layout(strata, channels, dict(zip(sizes, parts, strict=True)), 1.0)


def _require_inside(
    problem: InverseProblem, shapes: Sequence[tuple[int, int, int]], p: int, strata: Strata
) -> None:
    """Refuse a mask with a pattern at the border that no patch inside has: no key would count there."""
    for shape in shapes:
        everywhere = np.arange(shape[0] * shape[1])
        found = strata.of(Images.stack([problem.scale(shape)]).patches(everywhere, p, "valid"))
        if (found < 0).any():
            row, column = divmod(int(np.argmin(found)), shape[1])
            raise InvalidArgument.of(
                "boundary",
                f"expected circular or reflect for physics {problem.physics!r} and pre-inverse "
                f"{problem.pre_inverse!r}, got 'valid': in images of {shape[0]}x{shape[1]} no patch inside "
                f"misses the pixels that the one around ({row}, {column}) does",
            )


def _constants(problem: InverseProblem, shape: tuple[int, int, int], p: int) -> NDArray[np.float64]:
    """What a 1 in each channel of x adds to a patch of B A x, (P, C)."""
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
    return np.tile(level * np.eye(shape[2]), (p * p, 1))
