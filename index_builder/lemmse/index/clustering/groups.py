"""Groups of keys, cells and the leaves within them, laid out for sums over many of them at once.

Groups lie side by side in blocks, a number of each of LANES groups next to each other. The leaves of a cell
begin a block, and so do the cells of a stratum; what is left of their last block are groups of no keys. What
lies so is stored so.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.index.clustering.moments import Basis, Moments
from lemmse.index.storage.packing import LANES, aligned

__all__ = ["Groups", "first_blocks"]

_TINY = 1e-30
"""Instead of variances that are 0, to be divided by."""
_LEADING = 32, 0.4
"""At least so many coordinates, and this share of them, are leading ones: along the others keys vary so
little that one variance for all of them does, and that they say next to nothing about the target."""


class Groups(NamedTuple):
    """G groups of keys, in B blocks."""

    first: NDArray[np.int64]
    """Number of the first group of each block, (B,)."""
    size: NDArray[np.int64]
    """How many groups it holds, (B,)."""
    n: NDArray[np.float32]
    """Number of training patches that have its keys, (B, LANES)."""
    leading: NDArray[np.float32]
    """Mean μ and variance D of each leading coordinate of the keys, and zeros up to an even one,
    (B, R, 2, LANES)."""
    others: NDArray[np.float32]
    """Mean of the other coordinates, and zeros up to an even one, (B, P − R, LANES)."""
    variance: NDArray[np.float32]
    """Mean of their variances, (B, LANES)."""
    target: NDArray[np.float32]
    """Mean target t̄, (B, T, LANES)."""
    target_variance: NDArray[np.float32]
    """Variance of the target, (B, T, LANES)."""
    cross: NDArray[np.float32]
    """Cov(t, v) of the leading coordinates, (B, T, R, LANES)."""
    isotropic: NDArray[np.float32]
    """Mean of the variances, and how many there are of any size, (ΣD)² / ΣD², (B, 2, LANES)."""
    low: NDArray[np.float32]
    """Least of each leading coordinate, and of the norm of the others, (G, E)."""
    high: NDArray[np.float32]
    """Greatest of these, (G, E)."""
    target_low: NDArray[np.float32]
    """Least target, (G, T)."""
    target_high: NDArray[np.float32]
    """Greatest target, (G, T)."""

    @classmethod
    def stored(cls) -> tuple[str, ...]:
        """Names of the arrays that make up groups whose blocks are known."""
        return tuple(name for name in cls._fields if name not in ("first", "size"))

    @classmethod
    def laid_out(cls, runs: NDArray[np.integer], arrays: Mapping[str, NDArray[np.float32]]) -> "Groups":
        """Groups of these arrays, less one of no numbers; run i is the groups runs[i] … runs[i + 1] − 1."""
        first, size = _blocks(runs)
        nothing = np.zeros((len(first), 0, LANES), np.float32)
        return cls(first, size, **{name: arrays.get(name, nothing) for name in cls.stored()})

    @classmethod
    def of(cls, moments: Moments, n: NDArray[np.integer], runs: NDArray[np.integer]) -> "Groups":
        """Groups of n patches each, with these moments; run i is the groups runs[i] … runs[i + 1] − 1."""
        first, size = _blocks(runs)
        group = np.minimum(first[:, None] + np.arange(LANES), len(n) - 1)
        absent = np.arange(LANES) >= size[:, None]

        def side_by_side(values: NDArray[np.float32]) -> NDArray[np.float32]:
            """(G, …) as (B, …, LANES)."""
            lanes = values[group]
            lanes[absent] = 0
            return np.moveaxis(lanes, 1, -1)

        p = moments.mean.shape[1]
        mean = _filled_up(side_by_side(moments.mean))
        variance = _filled_up(side_by_side(moments.variance))
        square = np.square(variance).sum(axis=1)
        count = np.where(square > 0, np.square(variance.sum(axis=1)) / np.maximum(square, _TINY), 1)
        leading = _even(min(p, max(_LEADING[0], round(_LEADING[1] * p))))
        return cls(
            first=first,
            size=size,
            n=side_by_side(n.astype(np.float32)),
            leading=_aligned(np.stack([mean[:, :leading], variance[:, :leading]], axis=2)),
            others=_aligned(mean[:, leading:]),
            variance=_aligned(variance[:, leading:].sum(axis=1) / max(1, mean.shape[1] - leading)),
            target=np.ascontiguousarray(side_by_side(moments.target)),
            target_variance=np.ascontiguousarray(side_by_side(moments.target_variance)),
            cross=_aligned(_filled_up(side_by_side(moments.cross), axis=2)[:, :, :leading]),
            isotropic=np.stack([variance.sum(axis=1) / p, count], axis=1),
            low=moments.low,
            high=moments.high,
            target_low=moments.target_low,
            target_high=moments.target_high,
        )

    def along_pixels(self, basis: Basis) -> "Groups":
        """The same groups with means, variances and covariances along the pixels."""
        p, leading = len(basis.mean), min(len(basis.mean), self.leading.shape[1])
        mean = np.concatenate([self.leading[:, :, 0], self.others], axis=1)[:, :p]
        variance = np.broadcast_to(self.variance[:, None], mean.shape).copy()
        variance[:, :leading] = self.leading[:, :leading, 1]
        mean = basis.mean[:, None] + basis.axes @ mean
        variance = np.square(basis.axes) @ variance
        cross = basis.axes[:, :leading] @ self.cross[:, :, :leading]
        return self._replace(
            leading=_aligned(_filled_up(np.stack([mean, variance], axis=2))),
            others=self.others[:, :0],
            cross=_aligned(_filled_up(cross, axis=2)),
        )


def first_blocks(runs: NDArray[np.integer]) -> NDArray[np.int64]:
    """First block of each run of groups, and the number of blocks."""
    return np.cumsum([0, *-(-np.diff(runs) // LANES)])


def _blocks(runs: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First group of each block, and how many it holds."""
    begins = first_blocks(runs)
    run = np.repeat(np.arange(len(runs) - 1), np.diff(begins))
    first = runs[run] + LANES * (np.arange(begins[-1]) - begins[run])
    return first, np.minimum(LANES, runs[run + 1] - first)


def _even(number: int) -> int:
    return number + number % 2


def _filled_up(values: NDArray[np.float32], axis: int = 1) -> NDArray[np.float32]:
    """The values and zeros up to an even number of them."""
    fill = [(0, values.shape[axis] % 2 if i == axis else 0) for i in range(values.ndim)]
    return np.pad(values, fill)


def _aligned(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """The values from the beginning of a line of the cache."""
    there = aligned(values.shape)
    there[:] = values
    return there
