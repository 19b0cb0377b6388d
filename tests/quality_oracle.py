"""Better pictures from the same posterior, as their models say: slow loops in float64.

A training patch v stands for the Gaussian N(v, τ² I) of clean patches, of which the query u shows every
coordinate with its own noise, or not at all. What it leaves of the patch follows from the joint Gaussian of
both by conditioning, and the posterior is the mixture of that over all training patches.
"""

import numpy as np

from tests.oracle import Oracle, patch


def patch_posteriors(training, y, s, p, bandwidth):
    """Mean and variance of every patch of y (H, W, C), by position; s (H, W, C) is inf where y is unseen."""
    keys = [
        patch(np.asarray(x, np.float64), i, j, p)
        for x in training
        for i in range(x.shape[0])
        for j in range(x.shape[1])
    ]
    posteriors = {}
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            u, noise = patch(y, i, j, p), patch(s, i, j, p)
            seen = np.flatnonzero(np.isfinite(noise))
            prior = bandwidth**2 * np.eye(len(u))
            covariance = prior[np.ix_(seen, seen)] + np.diag(noise[seen] ** 2)
            gain = prior[:, seen] @ np.linalg.inv(covariance)
            left = np.diag(prior - gain @ prior[seen])
            log_norm = -0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
            d = np.array([u[seen] - v[seen] for v in keys])
            log_w = log_norm - 0.5 * (d * np.linalg.solve(covariance, d.T).T).sum(axis=1)
            means = np.array([v + gain @ (u[seen] - v[seen]) for v in keys])
            w = np.exp(log_w - log_w.max())
            mean = w @ means / w.sum()
            posteriors[i, j] = {
                "mean": mean,
                "variance": w @ (left + (means - mean) ** 2) / w.sum(),
                "ess": w.sum() ** 2 / (w**2).sum(),
                "log_density": log_w.max() + np.log(w.sum() / len(w)),
            }
    return posteriors


def offset_posteriors(training, y, sigma, p, bandwidth):
    """The same where a training patch stands for all its levels of brightness, in each channel.

    In an orthonormal basis of C constants and what is left, the constants have a flat prior, so that the
    query alone tells them, and the rest is as above.
    """
    channels = y.shape[2]
    constants = np.tile(np.eye(channels), (p * p, 1)) / p  # (P, C), unit columns
    rest = np.linalg.svd(constants, full_matrices=True)[0][:, channels:]  # (P, P − C)
    keys = np.array(
        [
            rest.T @ patch(np.asarray(x, np.float64), i, j, p)
            for x in training
            for i in range(x.shape[0])
            for j in range(x.shape[1])
        ]
    )
    total = sigma**2 + bandwidth**2
    gain = bandwidth**2 / total
    posteriors = {}
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            u = patch(y, i, j, p)
            d = rest.T @ u - keys
            log_w = -0.5 * (d**2).sum(axis=1) / total - 0.5 * keys.shape[1] * np.log(2 * np.pi * total)
            means = (keys + gain * d) @ rest.T + constants @ (constants.T @ u)
            covariance = gain * sigma**2 * rest @ rest.T + sigma**2 * constants @ constants.T
            w = np.exp(log_w - log_w.max())
            mean = w @ means / w.sum()
            posteriors[i, j] = {
                "mean": mean,
                "variance": w @ (np.diag(covariance) + (means - mean) ** 2) / w.sum(),
                "ess": w.sum() ** 2 / (w**2).sum(),
                "log_density": log_w.max() + np.log(w.sum() / len(w)),
            }
    return posteriors


def quality_oracle(training, y, s, p, *, bandwidth=0.0, aggregate="centre", equivariance="none") -> Oracle:
    """Reconstruct y (H, W, C) from training images with noise of standard deviation s (H, W, C)."""
    height, width, channels = y.shape
    if equivariance == "offset":
        posteriors = offset_posteriors(training, y, s.flat[0], p, bandwidth)
    else:
        posteriors = patch_posteriors(training, y, s, p, bandwidth)
    told = {pixel: [] for pixel in posteriors}  # what patches say of a pixel: mean, variance, ess, density
    half = p // 2
    for (i, j), posterior in posteriors.items():
        mean = posterior["mean"].reshape(p, p, channels)
        variance = posterior["variance"].reshape(p, p, channels)
        for a in range(p):
            for b in range(p):
                if aggregate == "overlap" or (a, b) == (half, half):
                    pixel = (i - half + a) % height, (j - half + b) % width
                    told[pixel].append(
                        (mean[a, b], variance[a, b], posterior["ess"], posterior["log_density"])
                    )
    result = Oracle.empty(y.shape, [])
    for pixel, rows in told.items():
        means, variances, ess, log_density = (np.array(column) for column in zip(*rows, strict=True))
        result.image[pixel] = means.mean(axis=0)
        result.variance[pixel] = np.maximum(0, variances.mean(axis=0) - means.var(axis=0))
        result.ess[pixel] = ess.mean()
        result.log_density[pixel] = log_density.mean()
    return result
