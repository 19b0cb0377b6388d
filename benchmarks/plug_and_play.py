"""Algorithms of deepinv with lemmse as their prior, beside lemmse's own answer and total variation.

    lemmse build train.npy --out clean --limit 100
    lemmse build train.npy --out blurred --limit 100 --physics blur:gaussian:1.0 --pre-inverse wiener:0.01
    python -m benchmarks.plug_and_play --index clean --blurred blurred --test test.npy

in the environment of `make test-integrations`. Images are cut to squares of `--size`. The problems, with
noise of σ = 0.05, are inpainting (60 % of the pixels are observed), deblurring (Gaussian, σ = 1 pixel) and
super-resolution (every second pixel of every second row). Total variation has the best of three weights for
each problem, by the PSNR that is reported.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from deepinv.optim import DPIR, L2, PGD, RED, PnP, TVPrior
from deepinv.physics import BlurFFT, GaussianNoise, Inpainting, Physics
from deepinv.physics.functional.blur import gaussian_blur
from deepinv.sampling import DDRM, DPS, DiffPIR

from benchmarks.inputs import read_images
from benchmarks.measures import decibels, print_rows, timed
from lemmse.client import connect
from lemmse.integrations.deepinv import LemmseDenoiser, LemmseReconstructor

SIGMA = 0.05
SUPER_RESOLUTION = "x2 super-resolution"
BETTER = {"aggregate": "overlap", "bandwidth": 0.02, "gaussian_share": 0.01}
TV_WEIGHTS = (0.01, 0.03, 0.1)

Method = Callable[[torch.Tensor, Physics, torch.Tensor], torch.Tensor]
"""Returns the reconstruction of a measurement, given its physics and an image to begin with."""


def problems(shape: tuple[int, ...]) -> dict[str, Physics]:
    """Return the problems, for images of this shape, (C, H, W)."""
    noise = {"noise_model": GaussianNoise(SIGMA)}
    mask = (torch.rand(1, *shape[1:], generator=torch.Generator().manual_seed(0)) < 0.6).float()
    grid = torch.zeros(shape)
    grid[:, ::2, ::2] = 1  # deepinv's Downsampling without a filter has no proximal operator
    return {
        "inpainting": Inpainting(shape, mask=mask.expand(shape), **noise),
        "deblurring": BlurFFT(shape, filter=gaussian_blur(sigma=(1.0, 1.0)), **noise),
        SUPER_RESOLUTION: Inpainting(shape, mask=grid, **noise),
    }


def algorithms(denoiser: LemmseDenoiser) -> dict[str, Method]:
    """Return the algorithms with this denoiser."""
    falling = np.geomspace(0.5, SIGMA, 10).tolist()
    pgd = {"data_fidelity": L2(), "stepsize": 1.0, "max_iter": 10}

    def pnp(y: torch.Tensor, physics: Physics, begin: torch.Tensor) -> Any:
        return PGD(prior=PnP(denoiser), sigma_denoiser=falling, **pgd)(y, physics, init=begin)

    def red(y: torch.Tensor, physics: Physics, begin: torch.Tensor) -> Any:
        prior = {"prior": RED(denoiser), "lambda_reg": 0.3, "sigma_denoiser": falling, "g_first": True}
        return PGD(**prior, **pgd)(y, physics, init=begin)

    return {
        "PnP-PGD, 10 steps": pnp,
        "RED, 10 steps": red,
        "DPIR, 8 steps": lambda y, physics, begin: DPIR(SIGMA, denoiser)(y, physics, init=begin),
        "DiffPIR, 15 steps": lambda y, physics, _: DiffPIR(
            denoiser, L2(), sigma=SIGMA, max_iter=15, zeta=1.0, lambda_=1.0
        )(y, physics),
        "DDRM, 15 steps": lambda y, physics, _: DDRM(denoiser, sigmas=np.linspace(1, 0, 15))(y, physics),
        "DPS, 20 steps": lambda y, physics, _: DPS(
            denoiser, num_steps=20, weight=100.0, rng=torch.Generator().manual_seed(0)
        )(y, physics),
    }


def by_tv(weight: float) -> Method:
    """Return the reconstruction by total variation of this weight."""
    settings = {"data_fidelity": L2(), "stepsize": 1.0, "lambda_reg": weight, "max_iter": 50}

    def solve(y: torch.Tensor, physics: Physics, begin: torch.Tensor) -> Any:
        return PGD(prior=TVPrior(n_it_max=30), **settings)(y, physics, init=begin)

    return solve


def measure(method: Method, problem: str, clean: torch.Tensor) -> tuple[float, float]:
    """Return PSNR in dB, and seconds for an image."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - that of deepinv's DDRM
    physics = problems(tuple(clean.shape[1:]))[problem]
    y = physics(clean)
    coarse = y[:, :, ::2, ::2] if problem == SUPER_RESOLUTION else y
    begin = torch.nn.functional.interpolate(coarse, clean.shape[-2:])
    found, seconds = timed(lambda: method(y, physics, begin))
    return decibels((found.float() - clean).square().numpy()), seconds / len(clean)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--index", required=True, help="index of the clean images")
    parser.add_argument("--blurred", required=True, help="index for the blur, for lemmse's own answer to it")
    parser.add_argument("--test", required=True, help="images that are not in the index")
    parser.add_argument("--images", type=int, default=4, help="number of these (default %(default)s)")
    parser.add_argument("--size", type=int, default=16, help="side of the squares (default %(default)s)")
    parser.add_argument("--mode", default="exact", help="mode of the denoiser (default %(default)s)")
    parser.add_argument("--accuracy-db", type=float, default=40.0, help="of hybrid (default %(default)s)")
    parser.add_argument("--better", action="store_true", help="lemmse with overlap, bandwidth and Gaussians")
    parser.add_argument(
        "--only", nargs="+", help="methods to measure, such as lemmse, DPIR or TV; all if missing"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # those of deepinv
    images = read_images(arguments.test, arguments.images)
    cut = [image[: arguments.size, : arguments.size] for image in images]
    clean = torch.from_numpy(np.stack(cut)).float().movedim(-1, 1).contiguous()
    sums: dict[str, Any] = {"mode": arguments.mode, "accuracy_db": arguments.accuracy_db}
    options = sums | (BETTER if arguments.better else {})
    with connect(arguments.index) as client, connect(arguments.blurred) as blurred:

        def by_lemmse(y: torch.Tensor, physics: Physics, begin: torch.Tensor) -> torch.Tensor:
            blur = isinstance(physics, BlurFFT)  # such an index has only the formula of the paper
            own = LemmseReconstructor(blurred, **sums) if blur else LemmseReconstructor(client, **options)
            answer: torch.Tensor = own(y, physics)
            return answer

        methods: dict[str, Method] = {"measurement": lambda y, physics, begin: begin, "lemmse": by_lemmse}
        methods |= algorithms(LemmseDenoiser(client, **options))
        settings = {name: [method] for name, method in methods.items()}
        settings["TV, 50 steps"] = [by_tv(weight) for weight in TV_WEIGHTS]
        wanted = arguments.only or [name.partition(",")[0] for name in settings]
        rows = [
            _row(name, several, clean)
            for name, several in settings.items()
            if name.partition(",")[0] in wanted
        ]
    print_rows(rows, "PSNR in dB, and seconds for an image")


def _row(name: str, methods: list[Method], clean: torch.Tensor) -> dict[str, Any]:
    """Return the row of the best of some methods."""
    row: dict[str, Any] = {"method": name}
    for problem in problems(tuple(clean.shape[1:])):
        row[problem], row[f"s, {problem}"] = max(measure(method, problem, clean) for method in methods)
    return row


if __name__ == "__main__":
    main()
