"""Samples from the distribution that an index describes, by the probability flow. Nothing here connects.

The posterior mean D(x; σ) is the score of the noisy images, ∇ log p_σ(x) = (D(x; σ) − x) / σ², so that pure
noise becomes an image along dx/dσ = (x − D(x; σ)) / σ, from a large σ down to 0. `Sampling` asks for the
posterior means one noise level after the other, of all images at once, and moves the images.
"""

import math
import operator
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.client.arguments import as_name
from lemmse.client.conditions import as_condition
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.limits import TENSOR_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Count, Number
from lemmse.contract.results import IndexInfo, Result

__all__ = ["SOLVERS", "Round", "Sampling", "noise_levels"]

SOLVERS = ("ddim", "heun")
"""Ways to take a step: with the slope at its start, or with the mean of those at its start and its end."""

_NUMBERS = TENSOR_BYTES // np.dtype(np.float32).itemsize
"""Largest number of values of all images together."""
_RHO = 7.0
"""How much closer the noise levels are at the lower end (Karras et al., section 3)."""
_UINT64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Round:
    """The images of which the posterior means are to be taken next."""

    index: str
    """Name of the index to ask."""
    measurements: list[Measurement]
    """One for each image."""


class Sampling:
    """The way of some images from noise to samples.

    Parameters
    ----------
    shape, count, steps, seed, solver, sigma_max, sigma_min, y, mask, sigma, index, progress
        As in `Client.sample`.

    Raises
    ------
    InvalidArgument
        An argument is not of its kind, or two do not fit.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        count: int,
        steps: int,
        seed: int,
        solver: str,
        sigma_max: float,
        sigma_min: float,
        y: ArrayLike | None,
        mask: ArrayLike | None,
        sigma: float,
        index: str | Mapping[float, str] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._shape = _as_shape(shape)
        self._count = Count(_NUMBERS).check("count", count)
        if self._count * math.prod(self._shape) > _NUMBERS:
            raise InvalidArgument.of(
                "count",
                f"expected images of {_NUMBERS} numbers in all at most, got {self._count} of {self._shape}",
            )
        if solver not in SOLVERS:
            raise InvalidArgument.of("solver", f"expected one of {', '.join(SOLVERS)}, got {solver!r}")
        self._heun = solver == "heun"
        self._seed = Count(_UINT64, least=0).check("seed", seed)
        self._levels = noise_levels(steps, sigma_max, sigma_min)
        self._mask_axes = None if mask is None else np.ndim(mask)
        self._condition = as_condition(self._shape, y, mask, sigma)
        self._indexes = _as_indexes(index)
        self._progress = progress
        self._done = 0
        self._answers: list[NDArray[np.float32]] = []
        self.images: NDArray[np.float32] = np.empty((0, *self._shape), np.float32)
        """The samples, (count, *shape), once all rounds are over."""

    @property
    def names(self) -> list[str]:
        """Names of the indexes that are asked; an empty one stands for the only index."""
        return [name for _, name in self._indexes]

    def require_fit(self, index: IndexInfo) -> None:
        """Raise InvalidArgument unless an index has the score of images of this shape."""
        for what in ("physics", "pre_inverse", "equivariance"):
            wanted = "none" if what == "equivariance" else "identity"
            if (found := getattr(index, what)) != wanted:
                raise InvalidArgument.of(
                    "index",
                    f"expected one of {what.replace('_', '-')} {wanted}, {index.name!r} has {found}",
                )
        if index.noise == "correlated":
            raise InvalidArgument.of(
                "index", f"expected one of white noise, got {index.name!r} of correlated"
            )
        sizes = "(H, W" if index.patch_depth == 1 else "(D, H, W"
        axes = sizes.count(",") + 1
        full = (*self._shape, 1) if len(self._shape) == axes and index.channels == 1 else self._shape
        if len(full) != axes + 1 or full[-1] != index.channels:
            grey = f"{sizes}) or " if index.channels == 1 else ""
            raise InvalidArgument.of(
                "shape",
                f"expected {grey}{sizes}, {index.channels}), as index {index.name!r} has images with "
                f"{index.channels} channel{'s' * (index.channels > 1)}, got {self._shape}",
            )

        if self._mask_axes is not None and self._mask_axes < axes:
            raise InvalidArgument.of(
                "mask", f"expected {sizes}) or that with channels, got {self._mask_axes} axes"
            )

    def rounds(self) -> Iterator[Round]:
        """Yield what to ask; `take` must be given all answers to a round before the next one."""
        noise = np.random.default_rng(self._seed).standard_normal((self._count, *self._shape))
        x = self._condition.centre + self._levels[0] * noise
        for sigma, below in pairwise(self._levels):
            mean = yield from self._means(x, sigma)
            moved = mean + below / sigma * (x - mean)
            if self._heun and below > 0:
                slope = (x - mean) / sigma
                mean = yield from self._means(moved, below)
                moved = x + (below - sigma) * (slope + (moved - mean) / below) / 2
            x = moved
        self.images = (x * self._condition.white_level).astype(np.float32)

    def take(self, outcome: Result | LemmseError) -> None:
        """Take the answer to the next measurement of a round; raise it if it is an error."""
        if isinstance(outcome, LemmseError):
            raise outcome
        self._answers.append(outcome.image)
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._count * self._evaluations)

    @property
    def _evaluations(self) -> int:
        """Number of rounds."""
        steps = len(self._levels) - 1
        return 2 * steps - 1 if self._heun else steps

    def _means(self, x: NDArray[np.float64], sigma: float) -> Generator[Round, None, NDArray[np.float64]]:
        """Return the posterior means of images with noise sigma."""
        u, s = self._condition.question(x, sigma)
        index = next(name for least, name in reversed(self._indexes) if sigma >= least)
        self._answers = []
        yield Round(index, [Measurement.checked(one, sigma=s, mask=None) for one in u.astype(np.float32)])
        return self._condition.answer(np.stack(self._answers, dtype=np.float64))


def noise_levels(steps: int, sigma_max: float, sigma_min: float) -> NDArray[np.float64]:
    """Return the noise levels of some steps, from the highest to the lowest and to 0, (steps + 1,).

    Parameters
    ----------
    steps : int
        Number of steps, >= 1.
    sigma_max, sigma_min : float
        The highest and the lowest noise level, in intensities, > 0.

    Raises
    ------
    InvalidArgument
        A number is out of its range, or the lowest is not below the highest.

    Examples
    --------
    >>> noise_levels(4, 10, 0.02).round(3).tolist()
    [10.0, 2.169, 0.306, 0.02, 0.0]

    References
    ----------
    T. Karras et al., Elucidating the design space of diffusion-based generative models, arXiv 2206.00364,
    equation 5.
    """
    steps = Count(10_000).check("steps", steps)
    level = Number(1e-4, 1e4)
    high, low = level.check("sigma_max", sigma_max), level.check("sigma_min", sigma_min)
    if low >= high:
        raise InvalidArgument.of("sigma_min", f"expected a number below sigma_max, {high:g}, got {low:g}")
    roots = np.linspace(high ** (1 / _RHO), low ** (1 / _RHO), steps)
    return np.append(roots**_RHO, 0.0)


def _as_shape(shape: Any) -> tuple[int, ...]:
    """Return the validated shape of an image or a volume."""
    wanted = "expected (H, W) or (H, W, C), or (D, H, W) or (D, H, W, C) for an index of volumes"
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError as error:
        raise InvalidArgument.of("shape", f"{wanted}, got {shape!r}") from error
    if len(sizes) not in (2, 3, 4) or min(sizes) < 1:
        raise InvalidArgument.of("shape", f"{wanted}, each >= 1, got {sizes}")
    return sizes


def _as_indexes(index: Any) -> list[tuple[float, str]]:
    """Return names of indexes with the noise level from which each is asked, the lowest first."""
    if not isinstance(index, Mapping):
        return [(0.0, as_name(index))]
    indexes = sorted((Number(0, 1e4).check("index", least), as_name(name)) for least, name in index.items())
    if not indexes or indexes[0][0] > 0:
        raise InvalidArgument.of(
            "index", f"expected names by the noise level from which each counts, one from 0, got {index}"
        )
    return indexes
