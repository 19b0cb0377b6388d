"""Poisson-Gaussian noise as it is defined: the answer for the noise map at its own reconstruction.

s_i² = a (m_i + 3/8 a) + σ²,     m_i the mean of max(x̂, 0) over the patch around i,

with the nearest pixels beyond the border, or those of the other side if it is circular; from
s² = a (ȳ + 3/8 a) + σ² until s changes by at most 1 % (root mean square), at most six times.
"""

import numpy as np


def patch_means(x, sides, boundary):
    """The means of x (…, C) over the patches of these sides."""
    means = np.empty(x.shape)
    for place in np.ndindex(x.shape[:-1]):
        near = []
        for i, side, length in zip(place, sides, x.shape, strict=False):
            at = np.arange(i - side // 2, i - side // 2 + side)
            near.append(at % length if boundary == "circular" else np.clip(at, 0, length - 1))
        means[place] = x[np.ix_(*near)].reshape(-1, x.shape[-1]).mean(axis=0)
    return means


def settled_oracle(y, gain, sigma, sides, boundary, answer):
    """The noise map of y (…, C), where answer(s) is the reconstruction for the map s."""
    s = np.full(y.shape, np.sqrt(gain * (y.mean() + 0.375 * gain) + sigma**2))
    for _ in range(6):
        last = s
        s = np.sqrt(gain * (patch_means(np.maximum(answer(s), 0), sides, boundary) + 0.375 * gain) + sigma**2)
        if np.sqrt(np.mean((s / last - 1) ** 2)) <= 0.01:
            break
    return s
