"""Correlated noise: what it gains to build an index for its spectrum, beside BM3D given the same spectrum.

    python -m benchmarks.coloured TRAINING IMAGES [--limit N] [--images N] [--patch-size P] [--only NOISE]

TRAINING and IMAGES are sources of grey images, the latter not in the former. An index of white noise, one for
the spectrum of the noise, and one for the spectrum estimated from 16 flat frames with this noise are built
without calibration and asked for 40 dB of mode hybrid: for the formula of the paper, and, in the columns
"refined", with aggregate overlap and a share of 0.01 of Gaussians, as quality best mostly has. The noise is

    rows     a quarter of the variance white, the rest equal along each row: read noise of a sensor
    grain    a twentieth of the variance white, the rest blurred by a Gaussian of 1 pixel: film, debayering

Each row has the mean PSNR in dB of the noisy image; of the index of white noise; of the index of the spectrum
and of its estimate; of BM3D given σ, and given the spectrum.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import read_images
from benchmarks.measures import decibels, print_rows
from benchmarks.quality.needs import needed
from lemmse.client import Client, connect
from lemmse.index import build
from lemmse.index.physics import Spectrum

SIGMAS = (0.05, 0.1, 0.2)
FRAMES = 16
REFINED: dict[str, Any] = {"aggregate": "overlap", "gaussian_share": 0.01}

Image = NDArray[np.float64]


def rows(height: int, width: int) -> NDArray[np.float64]:
    """Return the power of white noise and, with three times the variance, noise that is equal along a row."""
    power = np.ones((height, width))
    power[:, 0] += 3 * width
    return power


def grain(height: int, width: int) -> NDArray[np.float64]:
    """Return the power of white noise and, with 19 times the variance, noise blurred by one pixel."""
    squares = [np.square(2 * np.pi * np.fft.fftfreq(length)) for length in (height, width)]
    blurred: NDArray[np.float64] = np.exp(-np.add.outer(*squares))
    return np.asarray(1 + 19 * blurred / blurred.mean())


NOISES: dict[str, Callable[[int, int], NDArray[np.float64]]] = {"rows": rows, "grain": grain}


def load_bm3d() -> Callable[[Image, float | NDArray[np.float64]], Image]:
    """Return BM3D of a grey image, given σ or the power spectrum of the noise, of mean variance × pixels."""
    vars(np).setdefault("trapz", np.trapezoid)  # by which name bm4d calls it
    with needed("BM3D"):
        from bm3d import bm3d

    return lambda y, noise: np.asarray(bm3d(y[..., 0], noise), np.float64).reshape(y.shape)


def answers(
    clients: dict[str, Client],
    bm3d: Callable[[Image, float | NDArray[np.float64]], Image],
    images: list[Image],
    power: Callable[[int, int], NDArray[np.float64]],
    sigma: float,
) -> dict[str, object]:
    """Return a row of the table."""
    rng = np.random.default_rng(0)
    squares: dict[str, list[NDArray[np.floating]]] = {}
    for x in images:
        spectrum = Spectrum.of("noise", power(*x.shape[:2])[..., None])
        y = x + sigma * spectrum.sample((x.shape[0], x.shape[1], 1), rng)
        found: dict[str, NDArray[np.floating]] = {"noisy": y}
        for name, client in clients.items():
            for kind, refinement in (("", {}), (" refined", REFINED)):
                asked = {"mode": "hybrid", "accuracy_db": 40.0, **refinement}
                found[name + kind] = client.reconstruct(y, sigma=sigma, **asked).image
        found["BM3D white"] = bm3d(y, sigma)
        found["BM3D spectrum"] = bm3d(y, spectrum.power[..., 0] * sigma**2 * x.shape[0] * x.shape[1])
        for name, answer in found.items():
            squares.setdefault(name, []).append(np.square(answer - x))
    means = {name: np.mean([decibels(one) for one in each]) for name, each in squares.items()}
    return {"sigma": sigma} | {name: f"{mean:.2f}" for name, mean in means.items()}


def main() -> None:
    """Print a table for each kind of noise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("training")
    parser.add_argument("source")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--patch-size", type=int, default=5)
    parser.add_argument("--only", choices=NOISES)
    arguments = parser.parse_args()
    bm3d, images = load_bm3d(), read_images(arguments.source, arguments.images)
    options = {"patch_size": arguments.patch_size, "limit": arguments.limit}
    with TemporaryDirectory() as name:
        folder = Path(name)
        white = connect(build([arguments.training], folder / "white", **options))
        for noise in [arguments.only] if arguments.only else NOISES:
            power = NOISES[noise](64, 64)
            np.save(folder / "spectrum.npy", power)
            sample = Spectrum.of("noise", power[..., None])
            rng = np.random.default_rng(1)
            frames = [0.5 + 0.1 * sample.sample((64, 64, 1), rng) for _ in range(FRAMES)]
            np.save(folder / "frames.npy", frames)
            clients = {"white": white}
            for kind in ("spectrum", "frames"):
                index = build(
                    [arguments.training], folder / f"{noise}-{kind}", noise=folder / f"{kind}.npy", **options
                )
                clients[kind] = connect(index)
            table = [answers(clients, bm3d, images, NOISES[noise], sigma) for sigma in SIGMAS]
            print_rows(table, f"{noise}: PSNR, mean over {len(images)} images, in dB")


if __name__ == "__main__":
    main()
