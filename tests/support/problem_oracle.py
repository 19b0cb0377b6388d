"""LE-MMSE of an inverse problem, from dense matrices and the definition alone, in float64.

    Q_m = Π_m B,     log w_km(u) = −½ ‖Q_m⁺ (u − Π_m B A x_k)‖² / σ² − ½ log pdet(Q_m Q_mᵀ) − ½ r log 2πσ²

for the positions m with u ∈ Im(Q_m), and of these only those of minimal rank r. On a mirrored border
(reflect, valid) a patch reads some pixels twice; their noise counts as if it were independent: there, with a
diagonal B, Q_m is the diagonal of the patch.
"""

import math

import numpy as np

from tests.support.oracle import Oracle


def patch_indices(shape, row, column, p, boundary="circular"):
    """Numbers of the pixels (row, column, channel) of a flattened image that a patch reads."""
    height, width, channels = shape

    def inside(i, size):
        if boundary == "circular":
            return i % size
        while not 0 <= i < size:
            if size == 1:
                return 0
            i = -i if i < 0 else 2 * (size - 1) - i
        return i

    return [
        (inside(row - p // 2 + i, height) * width + inside(column - p // 2 + j, width)) * channels + c
        for i in range(p)
        for j in range(p)
        for c in range(channels)
    ]


def convolution_matrix(kernel, shape):
    """(A x)[n] = Σ_a kernel[a] x[n − a + origin], origin at ⌊h/2⌋, ⌊w/2⌋, circular, each channel alike."""
    height, width, channels = shape
    matrix = np.zeros((height * width * channels,) * 2)
    for row in range(height):
        for column in range(width):
            for a in range(kernel.shape[0]):
                for b in range(kernel.shape[1]):
                    i = (row - a + kernel.shape[0] // 2) % height
                    j = (column - b + kernel.shape[1] // 2) % width
                    for c in range(channels):
                        n = (row * width + column) * channels + c
                        matrix[n, (i * width + j) * channels + c] += kernel[a, b]
    return matrix


def problem_oracle(training, y, sigma, p, a, b, boundary="circular", stride=1, root=None) -> Oracle:
    """Reconstruct y (H, W, C) from training images of the same size, for dense A and B.

    The noise of y is white, or σ times a dense matrix, its root, times white noise; then Q_m = Π_m B root.

    Of the training patches, only those in every stride-th of the rows and columns count.
    """
    shape = y.shape
    height, width, _ = shape
    positions = [(i, j) for i in range(height) for j in range(width)]
    rows = [patch_indices(shape, i, j, p, boundary) for i, j in positions]
    z = b @ y.reshape(-1)
    measured = [b @ (a @ x.reshape(-1)) for x in training]
    keys = [[x[r] for r in rows] for x in measured]
    inside = [
        boundary != "valid"
        or (i - p // 2 >= 0 and j - p // 2 >= 0 and i - p // 2 + p <= height and j - p // 2 + p <= width)
        for i, j in positions
    ]
    first = p // 2 if boundary == "valid" else 0
    inside = [
        yes and (i - first) % stride == (j - first) % stride == 0
        for yes, (i, j) in zip(inside, positions, strict=True)
    ]
    noise = []
    for r in rows:
        q = (b if root is None else b @ root)[r] if boundary == "circular" else np.diag(b.diagonal()[r])
        u_vectors, s, _ = np.linalg.svd(q, full_matrices=False)
        kept = s > 1e-10 * max(s.max(), 1e-300)
        kept &= s > 0
        noise.append((u_vectors[:, kept], s[kept]))
    ids = [(k, i, j) for k in range(len(training)) for i, j in positions]
    result = Oracle.empty(shape, ids)
    for n, (row, column) in enumerate(positions):
        u = z[rows[n]]
        # A query in the image of Q_m leaves no residual; a patch of noise that is not leaves one of its size.
        admitted = [
            inside[m] and np.linalg.norm(u - e @ (e.T @ u)) <= 1e-9 * max(1.0, np.linalg.norm(u))
            for m, (e, _) in enumerate(noise)
        ]
        least = min(len(noise[m][1]) for m in range(len(positions)) if admitted[m])
        log_w, targets, where = [], [], []
        for k, x in enumerate(training):
            for m, (i, j) in enumerate(positions):
                e, s = noise[m]
                if not admitted[m] or len(s) != least:
                    continue
                residual = (e.T @ (u - keys[k][m])) / s
                log_w.append(
                    -0.5 * residual @ residual / sigma**2
                    - np.log(s).sum()
                    - 0.5 * len(s) * math.log(2 * math.pi * sigma**2)
                )
                targets.append(x[i, j])
                where.append(k * len(positions) + m)
        result.put((row, column), where, np.array(log_w), np.array(targets))
    return result


def weighted_oracle(training, y, precision, p) -> Oracle:
    """Reconstruct y (H, W, C) with a precision 1/s² for each pixel, 0 where unobserved."""
    shape = y.shape
    height, width, _ = shape
    ids = [(k, i, j) for k, x in enumerate(training) for i in range(x.shape[0]) for j in range(x.shape[1])]
    keys = np.array([training[k].reshape(-1)[patch_indices(training[k].shape, i, j, p)] for k, i, j in ids])
    targets = np.array([training[k][i, j] for k, i, j in ids])
    result = Oracle.empty(shape, ids)
    for row in range(height):
        for column in range(width):
            pixels = patch_indices(shape, row, column, p)
            u, precisions = y.reshape(-1)[pixels], precision.reshape(-1)[pixels]
            seen = precisions > 0
            squared = (precisions[seen] * (u[seen] - keys[:, seen]) ** 2).sum(axis=1)
            log_w = -0.5 * squared + 0.5 * np.log(precisions[seen] / (2 * math.pi)).sum()
            result.put((row, column), slice(None), log_w, targets)
    return result
