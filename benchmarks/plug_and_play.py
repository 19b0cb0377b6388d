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
from deepinv.physics import BlurFFT, Downsampling, GaussianNoise, Inpainting, Physics
from deepinv.physics.functional.blur import gaussian_blur
from deepinv.sampling import DDRM, DPS, DiffPIR

from benchmarks.inputs import read_images
from benchmarks.measures import decibels, print_rows, timed
from lemmse.client import connect
from lemmse.integrations.deepinv import LemmseDenoiser, LemmseReconstructor

SIGMA = 0.05
TV_WEIGHTS = (0.01, 0.03, 0.1)

Method = Callable[[torch.Tensor, Physics, torch.Tensor], torch.Tensor]
"""Returns the reconstruction of a measurement, given its physics and an image to begin with."""


def problems(shape: tuple[int, ...]) -> dict[str, Physics]:
    """Return the problems, for images of this shape, (C, H, W)."""
    noise = {"noise_model": GaussianNoise(SIGMA)}
    mask = (torch.rand(1, *shape[1:], generator=torch.Generator().manual_seed(0)) < 0.6).float()
    return {
        "inpainting": Inpainting(shape, mask=mask.expand(shape), **noise),
        "deblurring": BlurFFT(shape, filter=gaussian_blur(sigma=(1.0, 1.0)), **noise),
        "x2 super-resolution": Downsampling(shape, factor=2, filter=None, **noise),
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


def measure(method: Method, physics: Physics, clean: torch.Tensor) -> tuple[float, float] | None:
    """Return PSNR in dB, and seconds for an image; None if the method does not solve the problem."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - that of deepinv's DDRM
    y = physics(clean)
    begin = torch.nn.functional.interpolate(y, clean.shape[-2:])
    try:
        found, seconds = timed(lambda: method(y, physics, begin))
    except AttributeError:  # DDRM without the singular value decomposition of the operator
        return None
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
    parser.add_argument("--without", nargs="*", default=[], help="algorithms to leave out: PnP-PGD, DPS, …")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # those of deepinv
    images = read_images(arguments.test, arguments.images)
    cut = [image[: arguments.size, : arguments.size] for image in images]
    clean = torch.from_numpy(np.stack(cut)).float().movedim(-1, 1).contiguous()
    options = {"mode": arguments.mode, "accuracy_db": arguments.accuracy_db}
    with connect(arguments.index) as client, connect(arguments.blurred) as blurred:

        def own(y: torch.Tensor, physics: Physics, begin: torch.Tensor) -> torch.Tensor:
            index = blurred if isinstance(physics, BlurFFT) else client
            answer: torch.Tensor = LemmseReconstructor(index, **options)(y, physics)
            return answer

        methods: dict[str, Method] = {"measurement": lambda y, physics, begin: begin, "lemmse": own}
        methods |= {
            name: method
            for name, method in algorithms(LemmseDenoiser(client, **options)).items()
            if name.partition(",")[0] not in arguments.without
        }
        rows = [_row(name, [method], clean) for name, method in methods.items()]
    rows.append(_row("total variation", [by_tv(weight) for weight in TV_WEIGHTS], clean))
    print_rows(rows, "PSNR in dB, and seconds for an image")


def _row(name: str, methods: list[Method], clean: torch.Tensor) -> dict[str, Any]:
    """Return the row of the best of some methods."""
    row: dict[str, Any] = {"method": name}
    for problem, physics in problems(tuple(clean.shape[1:])).items():
        found = [one for method in methods if (one := measure(method, physics, clean))]
        row[problem], row[f"s, {problem}"] = max(found, default=(None, None))
    return row


if __name__ == "__main__":
    main()
