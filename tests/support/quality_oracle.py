"""Better pictures from the same posterior, as their models say: slow loops in float64.

The prior of a clean patch is a mixture of Gaussians. A training patch v stands for N(v, τ² I), and for 1/M of
the share of them all; a Gaussian of the fitted mixture for N(μ, Σ + τ² I), and for π of the share of these.
The query u shows every coordinate with its own noise, or not at all. What it leaves of the patch follows from
the joint Gaussian of both by conditioning, and the posterior is the mixture of that over all of them.
"""

from itertools import pairwise

import numpy as np

from tests.support.oracle import Oracle, patch


def patch_posteriors(training, y, s, p, bandwidth, mixture=None, gaussian_share=0.0, stride=1):
    """Mean and variance of every patch of y (H, W, C), by position; s (H, W, C) is inf where y is unseen."""
    basis = np.eye(p * p * y.shape[2])
    parts = prior(training, p, bandwidth, mixture, gaussian_share, basis, stride)
    return {
        (i, j): posterior(patch(y, i, j, p), patch(s, i, j, p), parts)
        for i in range(y.shape[0])
        for j in range(y.shape[1])
    }


def offset_posteriors(training, y, sigma, p, bandwidth, mixture=None, gaussian_share=0.0, stride=1):
    """The same where a training patch stands for all its levels of brightness, in each channel.

    In an orthonormal basis of C constants and what is left, the constants have a flat prior, so that the
    query alone tells them, and the rest is as above.
    """
    channels = y.shape[2]
    constants = np.tile(np.eye(channels), (p * p, 1)) / p  # (P, C), unit columns
    rest = np.linalg.svd(constants, full_matrices=True)[0][:, channels:]  # (P, P − C)
    parts = prior(training, p, bandwidth, mixture, gaussian_share, rest, stride)
    posteriors = {}
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            u = patch(y, i, j, p)
            found = posterior(rest.T @ u, np.full(rest.shape[1], sigma), parts, rest)
            found["mean"] += constants @ (constants.T @ u)
            found["variance"] += sigma**2 * np.diag(constants @ constants.T)
            posteriors[i, j] = found
    return posteriors


def coloured_posteriors(
    training, y, sigma, p, bandwidth, mixture, gaussian_share, noise_covariance, *, offset
):
    """The same in noise of covariance σ² S; a bandwidth has the covariance τ² S, and the mixture is whitened.

    With offset, a level of each channel has a prior so wide that the query alone tells it.
    """
    values, vectors = np.linalg.eigh(noise_covariance)
    root = vectors * np.sqrt(values) @ vectors.T
    parts = prior(training, p, bandwidth, mixture, gaussian_share, np.eye(len(root)), root=root)
    if offset:
        constants = np.tile(np.eye(y.shape[2]), (p * p, 1))  # (P, C)
        parts = [(log_w, means, c + 1e3 * constants @ constants.T) for log_w, means, c in parts]
    noise = np.full(len(root), sigma)
    return {
        (i, j): posterior(patch(y, i, j, p), noise, parts, correlation=noise_covariance)
        for i in range(y.shape[0])
        for j in range(y.shape[1])
    }


def prior(training, p, bandwidth, mixture, gaussian_share, basis, stride=1, root=None):
    """The prior in an orthonormal basis (P, D): log weight, means (n, D), covariance (D, D) of its parts.

    A root of the covariance of the noise makes clean patches of those that the mixture describes.
    """
    root = np.eye(len(basis)) if root is None else root
    wide = bandwidth**2 * basis.T @ root @ root.T @ basis
    parts = []
    if gaussian_share < 1:
        keys = np.array(
            [
                basis.T @ patch(np.asarray(x, np.float64), i, j, p)
                for x in training
                for i in range(0, x.shape[0], stride)
                for j in range(0, x.shape[1], stride)
            ]
        )
        parts.append((np.log1p(-gaussian_share) - np.log(len(keys)), keys, wide))
    if gaussian_share > 0:
        arrays = (mixture.weights, mixture.means, mixture.variances, mixture.axes)
        for weight, mean, variances, axes in zip(*(a.astype(np.float64) for a in arrays), strict=True):
            half = basis.T @ root @ axes
            covariance = half @ np.diag(variances) @ half.T
            parts.append((np.log(gaussian_share * weight), (basis.T @ root @ mean)[None], covariance + wide))
    return parts


def posterior(u, noise, parts, basis=None, correlation=None):
    """What u (D,), seen with noise (D,), leaves of such a prior, as numbers of the patch; inf is unseen."""
    basis = np.eye(len(u)) if basis is None else basis
    correlation = np.eye(len(u)) if correlation is None else correlation
    seen = np.flatnonzero(np.isfinite(noise))
    rows = []
    for log_prior, means, covariance in parts:
        s = noise[seen]
        joint = covariance[np.ix_(seen, seen)] + s[:, None] * correlation[np.ix_(seen, seen)] * s
        gain = covariance[:, seen] @ np.linalg.inv(joint)
        left = basis @ (covariance - gain @ covariance[seen]) @ basis.T
        d = u[seen] - means[:, seen]
        squared = (d * np.linalg.solve(joint, d.T).T).sum(axis=1)
        log_p = -0.5 * np.linalg.slogdet(2 * np.pi * joint)[1] - 0.5 * squared
        given = (means + d @ gain.T) @ basis.T
        rows.append((log_prior + log_p, given, np.tile(np.diag(left), (len(means), 1))))
    log_w, means, left = (np.concatenate(column) for column in zip(*rows, strict=True))
    w = np.exp(log_w - log_w.max())
    mean = w @ means / w.sum()
    return {
        "mean": mean,
        "variance": w @ (left + (means - mean) ** 2) / w.sum(),
        "ess": w.sum() ** 2 / (w**2).sum(),
        "log_density": log_w.max() + np.log(w.sum()),
    }


def quality_oracle(
    training,
    y,
    s,
    p,
    *,
    bandwidth=0.0,
    aggregate="centre",
    mixture=None,
    gaussian_share=0.0,
    equivariance="none",
    stride=1,
    noise_covariance=None,
) -> Oracle:
    """Reconstruct y (H, W, C) from training images with noise of standard deviation s (H, W, C).

    With `noise_covariance`, S (P, P), the noise in a patch has covariance s² S.
    """
    height, width, channels = y.shape
    if noise_covariance is not None:
        prior_of = bandwidth, mixture, gaussian_share, noise_covariance
        offset = equivariance == "offset"
        posteriors = coloured_posteriors(training, y, s.flat[0], p, *prior_of, offset=offset)
    elif equivariance == "offset":
        posteriors = offset_posteriors(training, y, s.flat[0], p, bandwidth, mixture, gaussian_share, stride)
    else:
        posteriors = patch_posteriors(training, y, s, p, bandwidth, mixture, gaussian_share, stride)
    told = {pixel: [] for pixel in posteriors}  # what patches say of a pixel: mean, variance, ess, density
    half = p // 2
    for (i, j), of_patch in posteriors.items():
        mean = of_patch["mean"].reshape(p, p, channels)
        variance = of_patch["variance"].reshape(p, p, channels)
        for a in range(p):
            for b in range(p):
                if aggregate == "overlap" or (a, b) == (half, half):
                    pixel = (i - half + a) % height, (j - half + b) % width
                    told[pixel].append((mean[a, b], variance[a, b], of_patch["ess"], of_patch["log_density"]))
    result = Oracle.empty(y.shape, [])
    for pixel, rows in told.items():
        means, variances, ess, log_density = (np.array(column) for column in zip(*rows, strict=True))
        result.image[pixel] = means.mean(axis=0)
        result.variance[pixel] = np.maximum(0, variances.mean(axis=0) - means.var(axis=0))
        result.ess[pixel] = ess.mean()
        result.log_density[pixel] = log_density.mean()
    return result


def epll_oracle(training, y, s, p, *, mixture=None, gaussian_share=0.0, bandwidth=0.0):
    """Maximise the expected patch log likelihood by half-quadratic splitting: the image (H, W, C).

    Gaussians are adapted to a first answer, which is in the second one the first mean of patches.
    """
    sigma = np.sqrt((s[np.isfinite(s)] ** 2).mean())
    sigmas = sigma / np.sqrt([1, 4, 8, 16, 32])
    prior = {"gaussian_share": gaussian_share, "bandwidth": bandwidth}

    def mean(mixture, x, noise):
        return quality_oracle(training, x, noise, p, aggregate="overlap", mixture=mixture, **prior).image

    def answer(mixture, phi):
        for last, now in pairwise(sigmas):
            phi = mean(mixture, weighted(phi, last), np.full(y.shape, now))
        return phi

    def weighted(phi, noise):  # the mean of y and φ; what was not observed has no weight
        x = np.empty_like(phi)
        for place in np.ndindex(y.shape):
            seen, guessed = 1 / s[place] ** 2, 1 / noise**2
            total = seen * y[place] if seen else 0.0
            x[place] = (total + guessed * phi[place]) / (seen + guessed)
        return x

    first = answer(mixture, mean(mixture, y, s))
    if not gaussian_share:
        return first
    return answer(adapted_oracle(mixture, first, np.hypot(sigmas[-1], bandwidth), p), first)


def adapted_oracle(mixture, x, sigma, p, training_patches=8192.0):
    """The mixture of the patches of x, whose noise is sigma, and of a number of training patches."""
    patches = np.array([patch(x, i, j, p) for i in range(x.shape[0]) for j in range(x.shape[1])])
    weights, means, variances, axes = (
        a.astype(np.float64) for a in (mixture.weights, mixture.means, mixture.variances, mixture.axes)
    )
    covariances = axes * variances[:, None] @ axes.transpose(0, 2, 1)
    log_w = np.empty((len(patches), len(weights)))
    for g, covariance in enumerate(covariances):
        noisy, d = covariance + sigma**2 * np.eye(patches.shape[1]), patches - means[g]
        squared = (d * np.linalg.solve(noisy, d.T).T).sum(axis=1)
        log_w[:, g] = np.log(weights[g]) - 0.5 * (np.linalg.slogdet(noisy)[1] + squared)
    share = np.exp(log_w - log_w.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    parts = []
    for g, covariance in enumerate(covariances):
        r = np.where(share[:, g] > 1e-3, share[:, g], 0)
        old = training_patches * weights[g]
        count = r.sum() + old
        mean = (r @ patches + old * means[g]) / count
        d, moved = patches - mean, means[g] - mean
        square = d.T @ (r[:, None] * d) + old * (covariance + np.outer(moved, moved))
        parts.append((share[:, g].sum() + old, mean, *np.linalg.eigh(square / count)))
    counts, means, variances, axes = (np.array(part) for part in zip(*parts, strict=True))
    return type(mixture)(counts / counts.sum(), means, variances, axes)
