"""What a group of keys looks like from afar: its moments and its extent, along the keys' principal axes.

Along these axes distances are what they were, and the variances of the single coordinates carry most of a
group's shape, so that a group is taken for a Gaussian with a diagonal covariance. The extent bounds what the
group can hold at most: a box around the leading coordinates, and the range of the norms of the rest.
"""

from dataclasses import dataclass, fields
from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEADING", "Basis", "Moments", "key_moments"]

LEADING = 16
"""Coordinates in which a group has a box."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Orthonormal principal axes of the keys."""

    mean: NDArray[np.float32]
    """Mean key, (P,)."""
    axes: NDArray[np.float32]
    """Unit vectors in columns, by falling variance, (P, P)."""

    @classmethod
    def of(cls, sample: NDArray[np.float32]) -> "Basis":
        """The principal axes of a sample of keys (n, P)."""
        mean = sample.mean(axis=0, dtype=np.float64)
        deviation = sample - mean
        axes = np.linalg.eigh(deviation.T @ deviation)[1][:, ::-1]
        return cls(mean.astype(np.float32), np.ascontiguousarray(axes, np.float32))

    def rotate(self, v: NDArray[np.float32]) -> NDArray[np.float32]:
        """Coordinates of keys or queries (n, P) along the axes, from the mean."""
        return np.asarray((v - self.mean) @ self.axes, np.float32)


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of G groups of keys v, rotated, and their targets t; float32."""

    mean: NDArray[np.float32]
    """Mean key μ, (G, P)."""
    variance: NDArray[np.float32]
    """Variance of each coordinate D, (G, P)."""
    target: NDArray[np.float32]
    """Mean target t̄, (G, T)."""
    target_variance: NDArray[np.float32]
    """Variance of each channel of the targets, (G, T)."""
    cross: NDArray[np.float32]
    """Covariance of target and key Cov(t, v), (G, T, P)."""
    low: NDArray[np.float32]
    """Least of each leading coordinate, and of the norm of the others, (G, LEADING + 1 or P + 1)."""
    high: NDArray[np.float32]
    """Greatest of these."""
    target_low: NDArray[np.float32]
    """Least of each channel of the targets, (G, T)."""
    target_high: NDArray[np.float32]
    """Greatest of these."""

    @classmethod
    def of(
        cls,
        v: NDArray[np.float32],
        t: NDArray[np.float32],
        edges: NDArray[np.integer],
        copies: NDArray[np.integer],
    ) -> "Moments":
        """Moments of groups of rotated keys that follow each other, each counted as often as it has targets.

        Parameters
        ----------
        v : float32, (m, P)
            Rotated keys.
        t : float32, (n, T)
            The targets of the training patches that have these keys.
        edges : int, (G + 1,)
            Group g holds the keys edges[g] … edges[g + 1] − 1, at least one.
        copies : int, (m + 1,)
            Key i has the targets copies[i] … copies[i + 1] − 1, at least one.
        """
        first, first_t, n = edges[:-1], copies[edges[:-1]], np.diff(copies[edges])
        group, group_t = np.repeat(np.arange(len(n)), np.diff(edges)), np.repeat(np.arange(len(n)), n)
        count = np.diff(copies)[:, None].astype(np.float32)
        weight = (1 / n)[:, None].astype(np.float32)
        mean, target = _sum(count * v, first) * weight, _sum(t, first_t) * weight
        extent = np.column_stack([v[:, :LEADING], np.linalg.norm(v[:, LEADING:], axis=1)])
        low, high = np.minimum.reduceat(extent, first), np.maximum.reduceat(extent, first)
        target_low, target_high = np.minimum.reduceat(t, first_t), np.maximum.reduceat(t, first_t)
        v, t = v - mean[group], t - target[group_t]
        of_key = _sum(t, copies[:-1])  # (m, T)
        return cls(
            mean=mean,
            variance=_sum(count * v * v, first) * weight,
            target=target,
            target_variance=_sum(t * t, first_t) * weight,
            cross=np.stack([_sum(v * column[:, None], first) * weight for column in of_key.T], axis=1),
            low=low,
            high=high,
            target_low=target_low,
            target_high=target_high,
        )

    @classmethod
    def merge(cls, parts: "Moments", n: NDArray[np.integer], edges: NDArray[np.integer]) -> "Moments":
        """Moments of unions of groups that follow each other, from those of the groups.

        Parameters
        ----------
        parts : Moments
            Of the groups.
        n : int, (G,)
            Training patches of each group.
        edges : int, (U + 1,)
            Union u holds the groups edges[u] … edges[u + 1] − 1.
        """
        first = edges[:-1]
        share = (n / np.repeat(np.add.reduceat(n, first), np.diff(edges)))[:, None].astype(np.float32)
        union = np.repeat(np.arange(len(first)), np.diff(edges))
        mean, target = _sum(share * parts.mean, first), _sum(share * parts.target, first)
        v, t = parts.mean - mean[union], parts.target - target[union]
        cross = parts.cross + t[:, :, None] * v[:, None, :]
        return cls(
            mean=mean,
            variance=_sum(share * (parts.variance + v * v), first),
            target=target,
            target_variance=_sum(share * (parts.target_variance + t * t), first),
            cross=np.add.reduceat(share[:, :, None] * cross, first, dtype=np.float64).astype(np.float32),
            low=np.minimum.reduceat(parts.low, first),
            high=np.maximum.reduceat(parts.high, first),
            target_low=np.minimum.reduceat(parts.target_low, first),
            target_high=np.maximum.reduceat(parts.target_high, first),
        )

    @classmethod
    def join(cls, blocks: "list[Moments]") -> "Moments":
        """Moments of the groups of several blocks, one after the other."""
        return cls(
            *(np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(cls))
        )

    def rows(self) -> NDArray[np.float32]:
        """All numbers of a group in a row, field by field, (G, …)."""
        parts = (getattr(self, field.name) for field in fields(self))
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    @classmethod
    def of_rows(cls, rows: NDArray[np.float32], p_length: int, channels: int) -> "Moments":
        """What `rows` gave, of keys of length P and targets of T channels."""
        key, target, extent = (p_length,), (channels,), (min(LEADING, p_length) + 1,)
        shapes = key, key, target, target, target + key, extent, extent, target, target
        parts = np.split(rows, np.cumsum([prod(shape) for shape in shapes])[:-1], axis=1)
        return cls(*(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)))


def key_moments(t: NDArray[np.float32], copies: NDArray[np.integer]) -> NDArray[np.float32]:
    """n, Σ t and Σ t² of the targets of each key, (m, 1 + 2T).

    Parameters
    ----------
    t : float32, (n, T)
        The targets of the training patches that have the keys.
    copies : int, (m + 1,)
        Key i has the targets copies[i] … copies[i + 1] − 1, at least one.
    """
    t = t.astype(np.float64)  # a float32 sum of many equal numbers drifts
    n = np.diff(copies)[:, None].astype(np.float32)
    return np.concatenate([n, _sum(t, copies[:-1]), _sum(t * t, copies[:-1])], axis=1)


def _sum(values: NDArray[np.floating], first: NDArray[np.integer]) -> NDArray[np.float32]:
    """Sums over groups of rows, in float64 on the way."""
    return np.add.reduceat(values, first, dtype=np.float64).astype(np.float32)
