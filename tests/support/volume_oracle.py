"""LE-MMSE of volumes with patches over planes, as it is defined: slow loops in float64.

    φ*(u) = Σ_kn w_kn(u) t_kn / Σ_kn w_kn(u),     log w_kn(u) = −½ Σ_i (u_i − v_kn,i)² / s_i² + log norm

with v_kn the p_z×p×p patch of training volume k at n = (plane, row, column) and t_kn the voxel at n. Beyond
the sides of a volume, planes, rows and columns wrap around or are mirrored; with valid, training patches lie
inside.
"""

import itertools
import math

import numpy as np

from tests.support.oracle import Oracle


def inside(i, size, boundary):
    if boundary == "circular":
        return i % size
    while not 0 <= i < size:
        i = 0 if size == 1 else -i if i < 0 else 2 * (size - 1) - i
    return i


def places(shape, voxel, sides, boundary):
    """The voxels that the patch around a voxel reads, in the order plane, row, column."""
    spans = [
        [inside(centre - side // 2 + i, size, boundary) for i in range(side)]
        for centre, side, size in zip(voxel, sides, shape, strict=False)
    ]
    return list(itertools.product(*spans))


def cut(x, voxel, sides, boundary):
    """The patch of a volume (D, H, W, C) around a voxel."""
    return np.array([x[place] for place in places(x.shape, voxel, sides, boundary)]).ravel()


def voxels(shape):
    return list(itertools.product(*map(range, shape[:3])))


def training_voxels(shape, sides, boundary):
    """Those around which there is a training patch."""

    def fits(voxel):
        return all(
            c - s // 2 >= 0 and c + (s - 1) // 2 < n for c, s, n in zip(voxel, sides, shape, strict=False)
        )

    return [voxel for voxel in voxels(shape) if boundary != "valid" or fits(voxel)]


def volume_oracle(training, y, s, sides, boundary) -> Oracle:
    """Reconstruct y (D, H, W, C), with noise s of its shape, inf where y was not observed."""
    ids = [(k, *n) for k, x in enumerate(training) for n in training_voxels(x.shape, sides, boundary)]
    keys = np.array([cut(training[k], n, sides, boundary) for k, *n in ids])
    targets = np.array([training[k][tuple(n)] for k, *n in ids])
    result = Oracle.empty(y.shape, ids)
    for voxel in voxels(y.shape):
        u, noise = cut(y, voxel, sides, boundary), cut(s, voxel, sides, boundary)
        seen = np.isfinite(noise)
        log_w = -0.5 * np.square((u[seen] - keys[:, seen]) / noise[seen]).sum(axis=1)
        log_w -= np.log(noise[seen] * math.sqrt(2 * math.pi)).sum()
        result.put(voxel, slice(None), log_w, targets)
    return result


def overlap_oracle(training, y, s, sides, boundary) -> np.ndarray:
    """The mean, for each voxel, of the posterior means of all patches of y that read it."""
    posterior = volume_oracle(training, y, s, sides, boundary)
    keys = np.array([cut(training[k], n, sides, boundary) for k, *n in posterior.ids])
    total, count = np.zeros(y.shape), np.zeros(y.shape)
    for voxel in voxels(y.shape):
        patch = (posterior.weights[voxel] @ keys).reshape(-1, y.shape[3])
        for place, value in zip(places(y.shape, voxel, sides, boundary), patch, strict=True):
            total[place] += value
            count[place] += 1
    return total / count
