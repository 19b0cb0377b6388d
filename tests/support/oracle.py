"""LE-MMSE as it is defined: slow loops in float64 and long double, of nothing but the mathematics.

    φ*(u) = Σ_km w_km(u) t_km / Σ_km w_km(u),     w_km(u) = density of N(v_km, σ² I) at u

with v_km the p×p patch of training image k at m, t_km the pixel at m, positions wrapping around.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Oracle:
    image: np.ndarray  # (H, W, C), or (D, H, W, C) of a volume, and so on
    variance: np.ndarray  # (H, W, C)
    ess: np.ndarray  # (H, W)
    log_density: np.ndarray  # (H, W)
    weights: np.ndarray  # (H, W, M), adding up to 1
    ids: list[tuple[int, ...]]  # image, row, column of each of the M; or volume, plane, row, column

    @classmethod
    def empty(cls, shape, ids):
        return cls(
            image=np.empty(shape),
            variance=np.empty(shape),
            ess=np.empty(shape[:-1]),
            log_density=np.empty(shape[:-1]),
            weights=np.zeros((*shape[:-1], len(ids))),
            ids=ids,
        )

    def put(self, pixel, keys, log_w, targets, base=0.0):
        """The posterior of one pixel from the keys that count: their numbers, log w − base, and targets."""
        w = np.exp(log_w - log_w.max())
        mean = sum(w[:, None] * targets) / sum(w)
        self.image[pixel] = mean
        self.variance[pixel] = sum(w[:, None] * (targets - mean) ** 2) / sum(w)
        self.ess[pixel] = sum(w) ** 2 / sum(w**2)
        self.log_density[pixel] = base + log_w.max() + math.log(sum(w) / len(w))
        self.weights[pixel][keys] = w / sum(w)


def patch(x, row, column, p):
    """The p×p patch of x (H, W, C) around a position; for even p that is below and right of the middle."""
    height, width, _ = x.shape
    half = p // 2
    return np.array(
        [
            x[(row - half + i) % height, (column - half + j) % width, c]
            for i in range(p)
            for j in range(p)
            for c in range(x.shape[2])
        ]
    )


def log_weights(u, keys, precision):
    """log w of keys (M, P) relative to the first key, and log w of the first, with a precision (P,).

    The difference of two squares is a product, which has all its digits even if the squares are 10²⁴.
    """
    u, keys, precision = (np.asarray(x, np.longdouble) for x in (u, keys, precision))
    apart = keys - keys[0]
    relative = (precision * apart * (u - keys[0] - apart / 2)).sum(axis=1)
    return relative.astype(float), float(-0.5 * (precision * (u - keys[0]) ** 2).sum())


def oracle(training, y, sigma, p, stride=1) -> Oracle:
    """Reconstruct y (H, W, C) from training images, each (H_k, W_k, C): every stride-th row and column."""
    training = [np.asarray(x, np.float64) for x in training]
    y = np.asarray(y, np.float64)
    ids = [
        (k, i, j)
        for k, x in enumerate(training)
        for i in range(0, x.shape[0], stride)
        for j in range(0, x.shape[1], stride)
    ]
    keys = np.array([patch(training[k], i, j, p) for k, i, j in ids])
    targets = np.array([training[k][i, j] for k, i, j in ids])

    result = Oracle.empty(y.shape, ids)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            u = patch(y, i, j, p)
            log_w, first = log_weights(u, keys, np.full(len(u), 1 / sigma**2))
            log_norm = -len(u) / 2 * math.log(2 * math.pi * sigma**2)
            result.put((i, j), slice(None), log_w, targets, first + log_norm)
    return result


def correlation(power, distance) -> float:
    """Correlation of two pixels, (rows, columns) apart, of noise with a power (h, w) at each frequency."""
    height, width = power.shape
    angle = [
        [2 * math.pi * (i * distance[0] / height + j * distance[1] / width) for j in range(width)]
        for i in range(height)
    ]
    return float((power * np.cos(angle)).mean())


def noise_covariance(power, sides) -> np.ndarray:
    """Covariance of noise in a rectangle, in the order row, column, channel; power (h, w, C)."""
    channels = power.shape[2]
    pixels = [(i, j, c) for i in range(sides[0]) for j in range(sides[1]) for c in range(channels)]
    return np.array(
        [
            [correlation(power[..., c], (i - k, j - m)) if c == d else 0.0 for k, m, d in pixels]
            for i, j, c in pixels
        ]
    )


def coloured_oracle(training, y, sigma, p, power, *, offset=False) -> Oracle:
    """Reconstruct y (H, W, C) from training images, in noise of covariance σ² S on a patch.

    With offset, the level of each patch, by generalized least squares, is left out of the comparison; the
    density is then not that of the definition.
    """
    covariance = noise_covariance(power, (p, p))
    ids = [(k, i, j) for k, x in enumerate(training) for i in range(x.shape[0]) for j in range(x.shape[1])]
    keys = np.array([patch(training[k], i, j, p) for k, i, j in ids])
    targets = np.array([training[k][i, j] for k, i, j in ids])
    constants = np.tile(np.eye(y.shape[2]), (p * p, 1))  # (P, C)
    weighed = np.linalg.solve(covariance, constants)
    level = np.linalg.solve(constants.T @ weighed, weighed.T) * offset  # (C, P)
    result = Oracle.empty(y.shape, ids)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            u = patch(y, i, j, p)
            apart = u - keys
            apart = apart - apart @ level.T @ constants.T
            log_w = np.array([-0.5 * r @ np.linalg.solve(covariance, r) / sigma**2 for r in apart])
            log_norm = -0.5 * np.linalg.slogdet(2 * math.pi * sigma**2 * covariance)[1]
            result.put((i, j), slice(None), log_w, targets - keys @ level.T + level @ u, log_norm)
    return result


def agreement(a, b) -> float:
    """PSNR between two images in [0, 1], in dB."""
    error = float(np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)
