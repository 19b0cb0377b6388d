"""Summary statistics of key groups in the PCA basis: moments and extent.

The basis is orthonormal and therefore preserves distances; a group is approximated by a Gaussian with
diagonal covariance. The extent bounds the keys of a group: a box in the leading coordinates, and the range of
the norm of the other coordinates.
"""

from dataclasses import dataclass, fields, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEADING", "Basis", "Moments", "key_moments"]

LEADING = 16
"""Number of coordinates of the box of a group."""


@dataclass(frozen=True, slots=True)
class Basis:
    """The PCA basis: mean and orthonormal principal axes of the keys."""

    mean: NDArray[np.float32]
    """Mean key, (P,)."""
    axes: NDArray[np.float32]
    """Unit vectors in columns, in descending order of variance, (P, P)."""

    @classmethod
    def of(cls, sample: NDArray[np.float32]) -> "Basis":
        """Return the PCA basis of a sample of keys, (n, P)."""
        mean = sample.mean(axis=0, dtype=np.float64)
        deviation = sample - mean
        axes = np.linalg.eigh(deviation.T @ deviation)[1][:, ::-1]
        return cls(mean.astype(np.float32), np.ascontiguousarray(axes, np.float32))

    def rotate(self, v: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the coordinates of keys or queries, (n, P), along the axes, relative to the mean."""
        return np.asarray((v - self.mean) @ self.axes, np.float32)


@dataclass(frozen=True, slots=True)
class Moments:
    """Summary statistics of G groups of rotated keys v and their targets t, float32."""

    mean: NDArray[np.float32]
    """Mean key μ, (G, P)."""
    variance: NDArray[np.float32]
    """Variance D of each coordinate, (G, P)."""
    target: NDArray[np.float32]
    """Mean target t̄, (G, T)."""
    target_variance: NDArray[np.float32]
    """Variance of each channel of the targets, (G, T)."""
    cross: NDArray[np.float32]
    """Covariance of target and key, Cov(t, v), (G, T, P)."""
    low: NDArray[np.float32]
    """Smallest value of each leading coordinate and of the norm of the others, (G, min(P, LEADING) + 1)."""
    high: NDArray[np.float32]
    """Largest value of the same quantities, in the same shape."""
    target_low: NDArray[np.float32]
    """Smallest target of each channel, (G, T)."""
    target_high: NDArray[np.float32]
    """Largest target of each channel, (G, T)."""

    @classmethod
    def of(
        cls,
        v: NDArray[np.float32],
        t: NDArray[np.float32],
        group_keys: NDArray[np.integer],
        key_patches: NDArray[np.integer],
    ) -> "Moments":
        """Return the statistics of consecutive groups of rotated keys, weighted by multiplicity.

        Parameters
        ----------
        v : float32, (m, P)
            Rotated keys.
        t : float32, (n, T)
            Targets of the training patches of these keys.
        group_keys : int, (G + 1,)
            Group g consists of keys group_keys[g] … group_keys[g + 1] − 1, at least one.
        key_patches : int, (m + 1,)
            Key i has the patches key_patches[i] … key_patches[i + 1] − 1, at least one.
        """
        first, first_t, n = group_keys[:-1], key_patches[group_keys[:-1]], np.diff(key_patches[group_keys])
        group, group_t = np.repeat(np.arange(len(n)), np.diff(group_keys)), np.repeat(np.arange(len(n)), n)
        count = np.diff(key_patches)[:, None].astype(np.float32)
        weight = (1 / n)[:, None].astype(np.float32)
        mean, target = _sum(count * v, first) * weight, _sum(t, first_t) * weight
        extent = np.column_stack([v[:, :LEADING], np.linalg.norm(v[:, LEADING:], axis=1)])
        low, high = np.minimum.reduceat(extent, first), np.maximum.reduceat(extent, first)
        target_low, target_high = np.minimum.reduceat(t, first_t), np.maximum.reduceat(t, first_t)
        v, t = v - mean[group], t - target[group_t]
        of_key = _sum(t, key_patches[:-1])  # (m, T)
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
    def merge(cls, groups: "Moments", n: NDArray[np.integer], union_groups: NDArray[np.integer]) -> "Moments":
        """Return the statistics of unions of consecutive groups.

        Parameters
        ----------
        groups : Moments
            Statistics of the groups.
        n : int, (G,)
            Number of training patches in each group.
        union_groups : int, (U + 1,)
            Union u consists of groups union_groups[u] … union_groups[u + 1] − 1.
        """
        first, sizes = union_groups[:-1], np.diff(union_groups)
        share = (n / np.repeat(np.add.reduceat(n, first), sizes))[:, None].astype(np.float32)
        union = np.repeat(np.arange(len(first)), sizes)
        mean, target = _sum(share * groups.mean, first), _sum(share * groups.target, first)
        v, t = groups.mean - mean[union], groups.target - target[union]
        cross = groups.cross + t[:, :, None] * v[:, None, :]
        return cls(
            mean=mean,
            variance=_sum(share * (groups.variance + v * v), first),
            target=target,
            target_variance=_sum(share * (groups.target_variance + t * t), first),
            cross=np.add.reduceat(share[:, :, None] * cross, first, dtype=np.float64).astype(np.float32),
            low=np.minimum.reduceat(groups.low, first),
            high=np.maximum.reduceat(groups.high, first),
            target_low=np.minimum.reduceat(groups.target_low, first),
            target_high=np.maximum.reduceat(groups.target_high, first),
        )

    def without(
        self,
        n: NDArray[np.integer],
        v: NDArray[np.float32],
        t: NDArray[np.float32],
        group_keys: NDArray[np.integer],
        key_patches: NDArray[np.integer],
    ) -> "Moments":
        """Return the statistics of the groups without some of their patches; the extents stay as they are.

        Rounding errors are those of the groups, times the ratio of their patches to those that remain.

        Parameters
        ----------
        n : int, (G,)
            Number of training patches in each group, more than are taken away.
        v, t : float32, (m, P) and (n, T)
            Rotated keys to take away, and the targets of their training patches.
        group_keys, key_patches
            Groups and multiplicities of these, as for `of`, at least one key for each group.
        """
        first, first_t = group_keys[:-1], key_patches[group_keys[:-1]]
        gone = np.diff(key_patches[group_keys])
        group, group_t = np.repeat(np.arange(len(n)), np.diff(group_keys)), np.repeat(np.arange(len(n)), gone)
        count, left = np.diff(key_patches)[:, None], (n - gone)[:, None].astype(np.float64)
        share = n[:, None] / left
        d, e = v - self.mean[group].astype(np.float64), t - self.target[group_t].astype(np.float64)
        sums = _sum64(count * d, first) / left, _sum64(e, first_t) / left
        of_key = _sum64(e, key_patches[:-1])  # (m, T)
        cross = np.stack([_sum64(d * column[:, None], first) for column in of_key.T], axis=1)
        found = {
            "mean": self.mean - sums[0],
            "variance": share * self.variance - _sum64(count * d * d, first) / left - sums[0] ** 2,
            "target": self.target - sums[1],
            "target_variance": share * self.target_variance - _sum64(e * e, first_t) / left - sums[1] ** 2,
            "cross": share[:, :, None] * self.cross
            - cross / left[:, :, None]
            - sums[1][:, :, None] * sums[0][:, None, :],
        }
        for name in ("variance", "target_variance"):
            np.maximum(found[name], 0, out=found[name])
        return replace(self, **{name: values.astype(np.float32) for name, values in found.items()})

    def take(self, groups: NDArray[np.integer]) -> "Moments":
        """Return the statistics of the groups with the given numbers."""
        return Moments(*(getattr(self, field.name)[groups] for field in fields(self)))

    def put(self, groups: NDArray[np.integer], other: "Moments") -> None:
        """Replace the statistics of the groups with the given numbers by others, in place."""
        for field in fields(self):
            getattr(self, field.name)[groups] = getattr(other, field.name)

    @classmethod
    def join(cls, blocks: "list[Moments]") -> "Moments":
        """Return the statistics of the groups of several blocks, in order."""
        return cls(
            *(np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(cls))
        )

    def rows(self) -> NDArray[np.float32]:
        """Return all fields of each group, concatenated to one row per group, (G, …)."""
        parts = (getattr(self, field.name) for field in fields(self))
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    @classmethod
    def of_rows(cls, rows: NDArray[np.float32], p_length: int, channels: int) -> "Moments":
        """Return the statistics stored in `rows`, for keys of length P and targets of T channels."""
        key, target, extent = (p_length,), (channels,), (min(LEADING, p_length) + 1,)
        shapes = key, key, target, target, target + key, extent, extent, target, target
        parts = np.split(rows, np.cumsum([prod(shape) for shape in shapes])[:-1], axis=1)
        return cls(*(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)))


def key_moments(t: NDArray[np.float32], key_patches: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return n, Σ t and Σ t² of the targets of each key, (m, 1 + 2T).

    Parameters
    ----------
    t : float32, (n, T)
        Targets of the training patches of the keys.
    key_patches : int, (m + 1,)
        Key i has the patches key_patches[i] … key_patches[i + 1] − 1, at least one.
    """
    t = t.astype(np.float64)  # a float32 sum of many equal values drifts
    n = np.diff(key_patches)[:, None].astype(np.float32)
    return np.concatenate([n, _sum(t, key_patches[:-1]), _sum(t * t, key_patches[:-1])], axis=1)


def _sum(values: NDArray[np.floating], first: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return sums over consecutive groups of rows, accumulated in float64."""
    return _sum64(values, first).astype(np.float32)


def _sum64(values: NDArray[np.floating], first: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the same in float64."""
    sums: NDArray[np.float64] = np.add.reduceat(values, first, dtype=np.float64)
    return sums
