"""MMSE and E-MMSE as they are defined: slow loops in float64, of nothing but the mathematics.

    MMSE     x̂ = Σ_k w_k x_k / Σ_k w_k,          w_k = density of N(A x_k, diag(s²)) at y
    E-MMSE   LE-MMSE whose patch is the whole torus: for every position n on its own, over all images k and
             all positions m, w_km = density of N(v_km, noise of Q_m) at u = Π_n B y, with v_km = Π_m B A x_k,
             Q_m = Π_m B, B = diag(b), and the target x_k[m]

The noise s belongs to the pixels of the query. A density on the coordinates where b is 0 at m is that of a
point: it counts where b is 0 at the same coordinates of the query.
"""

import math

import numpy as np

from tests.support.oracle import Oracle


def posterior(log_w, targets):
    """Mean, variance, effective sample size, log Σ w and shares, of weights (M,) and targets (M, …)."""
    log_max = max(log_w)
    w = [math.exp(one - log_max) for one in log_w]
    mean = sum(one * t for one, t in zip(w, targets, strict=True)) / sum(w)
    variance = sum(one * (t - mean) ** 2 for one, t in zip(w, targets, strict=True)) / sum(w)
    ess = sum(w) ** 2 / sum(one**2 for one in w)
    return mean, variance, ess, log_max + math.log(sum(w)), np.array(w) / sum(w)


def log_gauss(u, v, s):
    """Log density of N(v, diag(s²)) at u over the coordinates that were observed (s finite)."""
    return sum(
        -((ui - vi) ** 2) / (2 * si**2) - 0.5 * math.log(2 * math.pi * si**2)
        for ui, vi, si in zip(u, v, s, strict=True)
        if math.isfinite(si)
    )


def mmse_oracle(images, measured, y, s) -> Oracle:
    """Reconstruct y (H, W, C) with noise s (H, W, C), ∞ where nothing was observed."""
    images = [np.asarray(x, np.float64) for x in images]
    log_w = [log_gauss(y.ravel(), np.ravel(a).astype(np.float64), s.ravel()) for a in measured]
    mean, variance, ess, log_sum, share = posterior(log_w, images)
    size = y.shape[:2]
    return Oracle(
        image=mean,
        variance=variance,
        ess=np.full(size, ess),
        log_density=np.full(size, log_sum - math.log(len(images))),
        weights=np.broadcast_to(share, (*size, len(images))),
        ids=[(k, 0, 0) for k in range(len(images))],
    )


def torus(x, row, column):
    """All of x (H, W, C), beginning at a position and wrapping around, flattened."""
    height, width, channels = x.shape
    return [
        x[(row + i) % height, (column + j) % width, c]
        for i in range(height)
        for j in range(width)
        for c in range(channels)
    ]


def emmse_oracle(images, measured, y, s, b=None) -> Oracle:
    """Reconstruct y (H, W, C) with noise s, ∞ where nothing was observed, and the pre-inverse diag(b).

    The density is that of y: of u, times the determinant of the part of B that is not 0. Each position
    that counts has an equal share of it.
    """
    height, width = y.shape[:2]
    b = np.ones(y.shape) if b is None else b
    log_det_b = sum(math.log(bi) for bi, si in zip(b.ravel(), s.ravel(), strict=True) if bi and si < math.inf)
    ids = [(k, i, j) for k in range(len(images)) for i in range(height) for j in range(width)]
    keys = [torus(np.asarray(b * measured[k], np.float64), i, j) for k, i, j in ids]
    targets = np.array([images[k][i, j] for k, i, j in ids], np.float64)
    result = Oracle(
        image=np.empty(y.shape),
        variance=np.empty(y.shape),
        ess=np.empty((height, width)),
        log_density=np.empty((height, width)),
        weights=np.empty((height, width, len(ids))),
        ids=ids,
    )
    for row in range(height):
        for column in range(width):
            u = torus(b * np.where(np.isfinite(s), y, 0), row, column)
            of_query = torus(s, row, column)
            masked = [bi == 0 for bi in torus(b, row, column)]
            log_w = []
            for (_, i, j), v in zip(ids, keys, strict=True):
                of_key = torus(b, i, j)
                if [bi == 0 for bi in of_key] != masked:
                    log_w.append(-math.inf)
                    continue
                noise = [si * bi if bi else math.inf for si, bi in zip(of_query, of_key, strict=True)]
                log_w.append(log_gauss(u, v, noise))
            mean, variance, ess, log_sum, share = posterior(log_w, targets)
            result.image[row, column] = mean
            result.variance[row, column] = variance
            result.ess[row, column] = ess
            result.log_density[row, column] = (
                log_sum + log_det_b - math.log(sum(one > -math.inf for one in log_w))
            )
            result.weights[row, column] = share
    return result
