"""Summary statistics of groups of keys (cells or leaves), in the layout of the SIMD kernels.

A block contains LANES groups, interleaved: the first element of each group, then the second element of each,
and so on. The leaves of each cell begin a new block, and so do the cells of each stratum; their last block is
padded with empty groups. The arrays are stored in this layout.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.index.clustering.moments import Basis, Moments
from lemmse.index.storage.packing import LANES, aligned

__all__ = ["Groups", "first_blocks", "interleaved", "leading_count"]

_TINY = 1e-30
"""Lower limit of a divisor."""
_LEADING = 32, 0.4
"""Smallest number and share of leading coordinates. Along the others, the keys of a group vary so little that
one variance describes all of these coordinates, and their covariance with the target is neglected."""


class Groups(NamedTuple):
    """G groups of keys in B blocks."""

    first: NDArray[np.int64]
    """Number of the first group of each block, (B,)."""
    size: NDArray[np.int64]
    """Number of groups in each block, (B,)."""
    n: NDArray[np.float32]
    """Number of training patches in each group, (B, LANES)."""
    leading: NDArray[np.float32]
    """Mean μ and variance D of each leading coordinate of the keys, (B, R, 2, LANES); R is made even by a
    zero coordinate if necessary."""
    others: NDArray[np.float32]
    """Mean of the other coordinates, padded with a zero to an even number, (B, P − R, LANES)."""
    variance: NDArray[np.float32]
    """Mean of the variances of the other coordinates, (B, LANES)."""
    target: NDArray[np.float32]
    """Mean target t̄, (B, T, LANES)."""
    target_variance: NDArray[np.float32]
    """Variance of the target, (B, T, LANES)."""
    cross: NDArray[np.float32]
    """Cov(t, v) of the leading coordinates, (B, T, R, LANES)."""
    isotropic: NDArray[np.float32]
    """Mean of all variances, and their effective number (Σ D)² / Σ D², (B, 2, LANES)."""
    low: NDArray[np.float32]
    """Smallest value of each coordinate of the extent (see `Moments`), (G, E)."""
    high: NDArray[np.float32]
    """Largest value of each coordinate of the extent, (G, E)."""
    target_low: NDArray[np.float32]
    """Smallest target of each channel, (G, T)."""
    target_high: NDArray[np.float32]
    """Largest target of each channel, (G, T)."""

    @classmethod
    def stored_names(cls) -> tuple[str, ...]:
        """Return the names of the stored fields: all except those that follow from the runs."""
        return tuple(name for name in cls._fields if name not in ("first", "size"))

    @classmethod
    def from_stored(cls, runs: NDArray[np.integer], arrays: Mapping[str, NDArray[np.float32]]) -> "Groups":
        """Return the groups in stored arrays; run i consists of groups runs[i] … runs[i + 1] − 1."""
        first, size = _blocks(runs)
        nothing = np.zeros((len(first), 0, LANES), np.float32)
        return cls(first, size, **{name: arrays.get(name, nothing) for name in cls.stored_names()})

    @classmethod
    def of(cls, moments: Moments, n: NDArray[np.integer], runs: NDArray[np.integer]) -> "Groups":
        """Return groups with n patches each, (G,); run i consists of groups runs[i] … runs[i + 1] − 1."""
        first, size = _blocks(runs)

        def interleave(values: NDArray[np.float32]) -> NDArray[np.float32]:
            return interleaved(values, first, size)

        p = moments.mean.shape[1]
        mean = _pad_even(interleave(moments.mean))
        variance = _pad_even(interleave(moments.variance))
        square = np.square(variance).sum(axis=1)
        count = np.where(square > 0, np.square(variance.sum(axis=1)) / np.maximum(square, _TINY), 1)
        leading = leading_count(p)
        return cls(
            first=first,
            size=size,
            n=interleave(n.astype(np.float32)),
            leading=_aligned(np.stack([mean[:, :leading], variance[:, :leading]], axis=2)),
            others=_aligned(mean[:, leading:]),
            variance=_aligned(variance[:, leading:].sum(axis=1) / max(1, mean.shape[1] - leading)),
            target=np.ascontiguousarray(interleave(moments.target)),
            target_variance=np.ascontiguousarray(interleave(moments.target_variance)),
            cross=_aligned(_pad_even(interleave(moments.cross), axis=2)[:, :, :leading]),
            isotropic=np.stack([variance.sum(axis=1) / p, count], axis=1),
            low=np.ascontiguousarray(moments.low),
            high=np.ascontiguousarray(moments.high),
            target_low=np.ascontiguousarray(moments.target_low),
            target_high=np.ascontiguousarray(moments.target_high),
        )

    def replaced(
        self,
        some: NDArray[np.integer],
        others: "Groups | None",
        kept: NDArray[np.integer],
        runs: NDArray[np.integer],
    ) -> "Groups":
        """Return a selection of the groups, some of them replaced.

        Parameters
        ----------
        some : int, (n,)
            Numbers of the groups to replace.
        others : Groups, optional
            What replaces them, n groups; None if n = 0.
        kept : int, (G',)
            Numbers of the groups to return, replaced ones included.
        runs : int
            Run i consists of the groups runs[i] … runs[i + 1] − 1 of those to return.
        """
        first, size = _blocks(runs)

        def select(name: str) -> NDArray[np.float32]:
            in_blocks = name not in _BY_GROUP

            def rows_of(groups: Groups) -> NDArray[np.float32]:
                values = getattr(groups, name)
                return _in_rows(values, groups.size) if in_blocks else values.copy()

            rows = rows_of(self)
            if others is not None:
                rows[some] = rows_of(others)
            values = interleaved(rows[kept], first, size) if in_blocks else rows[kept]
            if name == "isotropic":
                values[:, 1][np.arange(LANES) >= size[:, None]] = 1  # a divisor
            return _aligned(values)

        return type(self)(first, size, **{name: select(name) for name in self.stored_names()})

    def counts(self) -> NDArray[np.float32]:
        """Return the number of training patches in each group, (G,)."""
        return _in_rows(self.n, self.size)

    def moments(self, p: int) -> Moments:
        """Return the statistics by group, for keys of length P, as far as `of` keeps them."""
        mean = np.concatenate([self.leading[:, :, 0], self.others], axis=1)[:, :p]
        leading = min(p, self.leading.shape[1])
        variance = np.broadcast_to(self.variance[:, None], mean.shape).copy()
        variance[:, :leading] = self.leading[:, :leading, 1]
        cross = np.zeros((len(mean), self.cross.shape[1], p, LANES), np.float32)
        cross[:, :, :leading] = self.cross[:, :, :leading]

        def by_group(values: NDArray[np.float32]) -> NDArray[np.float32]:
            return _in_rows(values, self.size)

        return Moments(
            mean=by_group(mean),
            variance=by_group(variance),
            target=by_group(self.target),
            target_variance=by_group(self.target_variance),
            cross=by_group(cross),
            low=self.low,
            high=self.high,
            target_low=self.target_low,
            target_high=self.target_high,
        )

    def along_pixels(self, basis: Basis) -> "Groups":
        """Return the groups with means, variances and covariances along pixels instead of principal axes."""
        p, leading = len(basis.mean), min(len(basis.mean), self.leading.shape[1])
        mean = np.concatenate([self.leading[:, :, 0], self.others], axis=1)[:, :p]
        variance = np.broadcast_to(self.variance[:, None], mean.shape).copy()
        variance[:, :leading] = self.leading[:, :leading, 1]
        mean = basis.mean[:, None] + basis.axes @ mean
        variance = np.square(basis.axes) @ variance
        cross = basis.axes[:, :leading] @ self.cross[:, :, :leading]
        return self._replace(
            leading=_aligned(_pad_even(np.stack([mean, variance], axis=2))),
            others=self.others[:, :0],
            cross=_aligned(_pad_even(cross, axis=2)),
        )


_BY_GROUP = ("low", "high", "target_low", "target_high")
"""Fields that are not in blocks."""


def leading_count(p: int) -> int:
    """Return the number of leading coordinates of keys of length P, R."""
    return _even(min(p, max(_LEADING[0], round(_LEADING[1] * p))))


def interleaved(values: NDArray[Any], first: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[Any]:
    """Return values of groups, (G, …), in blocks, (B, …, LANES), with zeros for absent groups.

    Block b has the groups first[b] … first[b] + size[b] − 1.
    """
    lanes = values[np.minimum(first[:, None] + np.arange(LANES), len(values) - 1)]
    lanes[np.arange(LANES) >= size[:, None]] = 0
    return np.moveaxis(lanes, 1, -1)


def _in_rows(values: NDArray[Any], size: NDArray[np.int64]) -> NDArray[Any]:
    """Return values in blocks, (B, …, LANES), by group, (G, …); the inverse of `interleaved`."""
    rows: NDArray[Any] = np.moveaxis(values, -1, 1)[np.arange(LANES) < size[:, None]]
    return rows


def first_blocks(runs: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the first block of each run of groups, followed by the number of blocks."""
    return np.cumsum([0, *-(-np.diff(runs) // LANES)])


def _blocks(runs: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first group of each block, and the number of groups in it."""
    begins = first_blocks(runs)
    run = np.repeat(np.arange(len(runs) - 1), np.diff(begins))
    first = runs[run] + LANES * (np.arange(begins[-1]) - begins[run])
    return first, np.minimum(LANES, runs[run + 1] - first)


def _even(number: int) -> int:
    return number + number % 2


def _pad_even(values: NDArray[np.float32], axis: int = 1) -> NDArray[np.float32]:
    """Return the values, padded with zeros to an even length along an axis."""
    fill = [(0, values.shape[axis] % 2 if i == axis else 0) for i in range(values.ndim)]
    return np.pad(values, fill)


def _aligned(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return a copy of the values that is aligned to a cache line."""
    copy = aligned(values.shape)
    copy[:] = values
    return copy
