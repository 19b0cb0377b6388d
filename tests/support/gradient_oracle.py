"""The derivative of LE-MMSE as it is defined, by a dense matrix for every patch, in float64.

dE[v|u]/du = Cov(v, v|u) Λ,     Λ = diag(precision)
"""

import numpy as np

from tests.support.problem_oracle import patch_indices


def vjp_oracle(training, y, precision, vector, p, *, aggregate="centre", boundary="circular"):
    """Σ_i vector_i ∂x̂_i / ∂y_j for y (H, W, C), with a precision 1/s² for each pixel, 0 where unobserved."""
    keys = np.array(
        [
            np.asarray(x, np.float64).reshape(-1)[patch_indices(x.shape, i, j, p, boundary)]
            for x in training
            for i in range(x.shape[0])
            for j in range(x.shape[1])
            if boundary != "valid"
            or (0 <= i - p // 2 <= x.shape[0] - p and 0 <= j - p // 2 <= x.shape[1] - p)
        ]
    )
    shape, channels = y.shape, y.shape[2]
    own = slice((p // 2 * p + p // 2) * channels, (p // 2 * p + p // 2 + 1) * channels)
    pixels = {
        (i, j): patch_indices(shape, i, j, p, boundary) for i in range(shape[0]) for j in range(shape[1])
    }
    reads = np.zeros(y.size)  # how many patches say something of a number of y
    for where in pixels.values():
        for number in where if aggregate == "overlap" else where[own]:
            reads[number] += 1
    product = np.zeros(y.size)
    for where in pixels.values():
        u, weight = y.reshape(-1)[where], precision.reshape(-1)[where]
        log_w = -0.5 * (weight * (np.where(weight > 0, u, 0.0) - keys) ** 2).sum(axis=1)
        w = np.exp(log_w - log_w.max())
        w /= w.sum()
        apart = keys - w @ keys
        jacobian = (w[:, None] * apart).T @ apart * weight  # (P, P): of E[v|u], with respect to u
        told = (vector.reshape(-1) / reads)[where]
        if aggregate == "centre":
            told, jacobian = told[own], jacobian[own]
        np.add.at(product, where, told @ jacobian)
    return product.reshape(shape)
