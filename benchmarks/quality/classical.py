"""The classical denoisers: non-local means, total variation, wavelets and BM3D.

Each is given σ. The first three have a strength in units of σ, which is chosen for each data set and σ by the
highest PSNR on some training images; BM3D is used as published.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.data import Data, Image
from benchmarks.quality.methods import Method, Opened, Ready
from benchmarks.quality.needs import needed
from benchmarks.quality.scores import add_noise, psnr
from lemmse.index.sources import intensities

TUNING = 8
"""Number of training images on which a strength is chosen."""
NLM: dict[str, Any] = {"patch_size": 5, "patch_distance": 9, "fast_mode": False}
FAST_NLM: dict[str, Any] = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
FAST_STRENGTH = 0.8
"""Strength of the fast form in units of σ."""
WAVELET: dict[str, Any] = {"wavelet": "db1", "wavelet_levels": 3, "method": "BayesShrink", "mode": "soft"}
TV: dict[str, Any] = {"eps": 1e-7, "max_num_iter": 2000}
"""The default settings stop long before the minimum at high noise."""
SHIFTS = 3
"""Wavelets are averaged over shifts of the image by up to this many pixels (Coifman and Donoho 1995)."""
STRENGTHS = {
    "NLM": (0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0),
    "TV": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0),
    "wavelet": (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0),
}

Denoiser = Callable[[Image, float, float], Image]
"""Maps a noisy image, σ and the strength to an image."""


def nlm(y: Image, sigma: float, strength: float) -> Image:
    """Return the result of non-local means (Buades, Coll and Morel 2005)."""
    from skimage.restoration import denoise_nl_means

    x = denoise_nl_means(y, h=strength * sigma, sigma=sigma, channel_axis=-1, **NLM)
    return np.asarray(x).reshape(y.shape)  # skimage drops a single channel


def tv(y: Image, sigma: float, strength: float) -> Image:
    """Return the result of total variation (Rudin, Osher and Fatemi 1992; Chambolle 2004)."""
    from skimage.restoration import denoise_tv_chambolle

    x = denoise_tv_chambolle(y, weight=strength * sigma, channel_axis=-1, **TV)
    return np.asarray(x)


def wavelet(y: Image, sigma: float, strength: float) -> Image:
    """Return the result of BayesShrink (Chang, Yu and Vetterli 2000), averaged over shifts."""
    from skimage.restoration import cycle_spin, denoise_wavelet

    shrink = partial(denoise_wavelet, sigma=strength * sigma, channel_axis=-1, rescale_sigma=False, **WAVELET)
    return np.asarray(cycle_spin(y, shrink, max_shifts=SHIFTS, channel_axis=-1, workers=1))


def tuned(name: str, denoise: Denoiser, needs: str, **settings: Any) -> Method:
    @contextmanager
    def opened(data: Data, cache: Path) -> Iterator[Opened]:
        with needed(name):
            import skimage.restoration  # noqa: F401  so that it is not missed later

            __import__(needs)

        def ready(sigma: float) -> Ready:
            strength = choose(data, sigma, denoise, STRENGTHS[name])
            return Ready(lambda y: denoise(y, sigma, strength), strength)

        yield ready

    return Method(
        name, opened, {"strengths": STRENGTHS[name], "tuning": TUNING, **settings}, lambda data: TUNING
    )


def choose(data: Data, sigma: float, denoise: Denoiser, strengths: tuple[float, ...]) -> float:
    """Return the strength with the highest PSNR on training images."""
    chosen = np.linspace(0, len(data.training) - 1, TUNING).astype(int)
    clean = [intensities(data.training[k]).astype(np.float64) for k in chosen]
    pairs = [(x, add_noise(x, sigma, [k])) for k, x in enumerate(clean)]

    def gain(strength: float) -> float:
        return sum(psnr(np.clip(denoise(y, sigma, strength), 0, 1), x) for x, y in pairs)

    return max(strengths, key=gain)


@contextmanager
def unchanged(data: Data, cache: Path) -> Iterator[Opened]:
    yield lambda sigma: Ready(lambda y: y)


def load_fast_nlm() -> Callable[[Image, float], Image]:
    """Return non-local means in its fast form, given σ, with the settings of scikit-image's example."""
    with needed("NLM"):
        from skimage.restoration import denoise_nl_means

    def answer(y: Image, sigma: float) -> Image:
        x = denoise_nl_means(y, h=FAST_STRENGTH * sigma, channel_axis=-1, **FAST_NLM)
        return np.asarray(x, np.float64).reshape(y.shape)  # skimage drops a single channel

    return answer


def load_bm3d() -> Callable[[Image, float], Image]:
    """Return BM3D, given σ (Dabov, Foi, Katkovnik and Egiazarian 2007; Mäkinen, Azzari and Foi 2020)."""
    with needed("BM3D"):
        from bm3d import bm3d as grey
        from bm3d import bm3d_rgb as colour

    def answer(y: Image, sigma: float) -> Image:
        x = colour(y, sigma) if y.shape[2] == 3 else grey(y[..., 0], sigma)
        return np.asarray(x, np.float64).reshape(y.shape)

    return answer


@contextmanager
def bm3d(data: Data, cache: Path) -> Iterator[Opened]:
    answer = load_bm3d()
    yield lambda sigma: Ready(lambda y: answer(y, sigma))


CLASSICAL = (
    Method("noisy", unchanged),
    tuned("NLM", nlm, "skimage", **NLM),
    tuned("TV", tv, "skimage", **TV),
    tuned("wavelet", wavelet, "pywt", shifts=SHIFTS, **WAVELET),
    Method("BM3D", bm3d),
)
