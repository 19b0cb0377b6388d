"""The noise, and the distance of an image from the clean one; images are clipped to [0, 1] first."""

import math
import zlib

import numpy as np

from benchmarks.quality.data import Data, Image
from benchmarks.quality.needs import needed


def noisy(data: Data, sigma: float, number: int) -> Image:
    """Add noise to a held-out image; it is always the same for a data set, σ and number."""
    return add_noise(
        data.held_out[number], sigma, [zlib.crc32(data.name.encode()), round(sigma * 1e6), number]
    )


def add_noise(x: Image, sigma: float, seed: list[int]) -> Image:
    return x + sigma * np.random.default_rng(seed).standard_normal(x.shape)


def psnr(image: Image, clean: Image) -> float:
    """Return the PSNR in dB, for a peak of 1."""
    return -10 * math.log10(float(np.mean((image - clean) ** 2)))


def ssim(image: Image, clean: Image) -> float:
    """Return the SSIM with the Gaussian window of Wang et al. 2004, mean over the channels."""
    with needed("SSIM"):
        from skimage.metrics import structural_similarity
    return float(
        structural_similarity(
            image,
            clean,
            data_range=1,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
