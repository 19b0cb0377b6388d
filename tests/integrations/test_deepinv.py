"""The denoiser and the reconstructor for deepinv; run by `make test-integrations`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepinv
import numpy as np
import pytest
import torch
from deepinv.optim import DPIR, L2, PGD, RED, PnP
from deepinv.physics import (
    Blur,
    BlurFFT,
    Demosaicing,
    Denoising,
    Downsampling,
    GaussianNoise,
    Inpainting,
    Physics,
    PoissonNoise,
    Tomography,
)
from deepinv.physics.functional.blur import gaussian_blur
from deepinv.sampling import DDRM, DPS, DiffPIR

from lemmse.client import Client, connect
from lemmse.contract.errors import FailedPrecondition, InvalidArgument, NotFound
from lemmse.index import build
from lemmse.integrations.deepinv import LemmseDenoiser, LemmseReconstructor
from tests.support.cases import smooth
from tests.support.pages import ROOT, Page

SHAPE = (3, 12, 12)
NOISE = GaussianNoise(0.05)


def built(folder: Path, seeds: int, **options: Any) -> Path:
    np.save(folder / "images.npy", np.stack([smooth(seed, 12, 12, 3) for seed in range(seeds)]))
    return build([folder / "images.npy"], folder / "smooth", patch_size=5, **options)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("clean"), 6)


@pytest.fixture(scope="module")
def client(index: Path) -> Client:
    with connect(index) as client:
        yield client


@pytest.fixture(scope="module")
def clean() -> torch.Tensor:
    """Two images that are training images moved, (2, 3, 12, 12)."""
    moved = [np.roll(smooth(seed, 12, 12, 3), (3, 4), axis=(0, 1)) for seed in (1, 4)]
    return torch.from_numpy(np.stack(moved)).movedim(-1, 1).contiguous()


@pytest.fixture(autouse=True)
def the_same_noise() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - that of deepinv's DDRM


def single(client: Client, image: torch.Tensor, sigma: Any, **options: Any) -> torch.Tensor:
    """The client's own answer for an image (C, H, W)."""
    found = client.reconstruct(image.movedim(0, -1).numpy(), sigma=sigma, **options).image
    return torch.from_numpy(found).movedim(-1, 0)


SIGMAS = [
    (0.1, [0.1, 0.1]),
    (torch.tensor(0.1), [0.1, 0.1]),
    (torch.tensor([0.1]), [0.1, 0.1]),
    ([0.1, 0.2], [0.1, 0.2]),
    (torch.tensor([0.1, 0.2]), [0.1, 0.2]),
    (np.array([0.1, 0.2]), [0.1, 0.2]),
    (torch.tensor([0.1, 0.2]).view(2, 1, 1, 1), [0.1, 0.2]),
    (100.0, [100.0, 100.0]),
]


@pytest.mark.parametrize(("sigma", "each"), SIGMAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_denoises_as_the_client(
    client: Client, clean: torch.Tensor, sigma: Any, each: list[float], dtype
) -> None:
    x = clean.to(dtype)
    found = LemmseDenoiser(client, mode="exact")(x, sigma)
    expected = torch.stack([single(client, *one, mode="exact") for one in zip(x, each, strict=True)])
    assert (found.dtype, found.shape) == (dtype, x.shape)
    torch.testing.assert_close(found, expected.to(dtype))


def test_maps_of_sigma(client: Client, clean: torch.Tensor) -> None:
    sigma = 0.05 + torch.rand(2, 1, 12, 12)
    found = LemmseDenoiser(client)(clean, sigma)
    maps = sigma.movedim(1, -1).numpy().astype(np.float64)
    expected = torch.stack([single(client, *one) for one in zip(clean, maps, strict=True)])
    torch.testing.assert_close(found, expected)


def test_no_noise_is_no_change(client: Client, clean: torch.Tensor) -> None:
    denoiser = LemmseDenoiser(client)
    torch.testing.assert_close(denoiser(clean, 0), clean, rtol=0, atol=0)
    both = denoiser(clean, torch.tensor([0.0, 0.1]))
    torch.testing.assert_close(both[0], clean[0], rtol=0, atol=0)
    torch.testing.assert_close(both[1], single(client, clean[1], 0.1))


@pytest.mark.parametrize(
    "options", [{}, {"aggregate": "overlap", "mode": "topk", "k": 50}, {"exclude": ["images.npy[1]"]}]
)
@pytest.mark.parametrize(
    "sigma", [0.5, torch.tensor([0.0, 0.7]), 0.4 + torch.linspace(0, 1, 16).view(1, 1, 4, 4)]
)
def test_gradient_of_the_denoiser(client: Client, clean: torch.Tensor, sigma: Any, options: dict) -> None:
    denoiser = LemmseDenoiser(client, **options | {"mode": "exact"})
    x = clean[:, :, :4, :4].double().requires_grad_()
    # The images are float32: a difference of 10⁻⁷ over a step of 10⁻².
    assert torch.autograd.gradcheck(lambda x: denoiser(x, sigma), x, eps=1e-2, atol=5e-4, rtol=1e-3)
    if options:
        vector = torch.rand_like(x)
        (other,) = torch.autograd.grad(LemmseDenoiser(client, **options)(x, sigma), x, vector)
        (exact,) = torch.autograd.grad(denoiser(x, sigma), x, vector)
        torch.testing.assert_close(other, exact)


@pytest.mark.parametrize(
    "physics",
    [Denoising(NOISE), Inpainting((3, 4, 4), mask=0.6, noise_model=NOISE)],
    ids=lambda physics: type(physics).__name__,
)
def test_gradient_of_the_reconstructor(client: Client, clean: torch.Tensor, physics: Physics) -> None:
    physics.noise_model = GaussianNoise(0.5)
    y = physics.A(clean[:1, :, :4, :4]).double().requires_grad_()
    reconstruct = LemmseReconstructor(client, mode="exact")
    assert torch.autograd.gradcheck(lambda y: reconstruct(y, physics), y, eps=1e-2, atol=5e-4, rtol=1e-3)


def test_a_server_answers_alike(remote: Client, embedded: Client) -> None:
    x, vector = torch.rand(2, 2, 1, 5, 7)
    x.requires_grad_()
    found = [LemmseDenoiser(one)(x, torch.tensor([0.1, 0.3])) for one in (remote, embedded)]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    gradients = [torch.autograd.grad(one, x, vector)[0] for one in found]
    assert gradients[0].abs().max() > 0.01
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_gradients_that_are_refused(client: Client, clean: torch.Tensor) -> None:
    x = clean.clone().requires_grad_()
    found = LemmseDenoiser(client, estimator="mmse")(x, 0.1)
    with pytest.raises(InvalidArgument, match=r"^estimator: expected le-mmse for a gradient, got mmse"):
        found.sum().backward()
    found = LemmseDenoiser(client)(x, 0.1)
    with torch.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()


SELECTING = [
    Denoising(NOISE),
    Inpainting(SHAPE, mask=0.6, noise_model=NOISE),
    Demosaicing(SHAPE, noise_model=NOISE),
    Downsampling(SHAPE, factor=2, filter=None, noise_model=NOISE),
]


@pytest.mark.parametrize("physics", SELECTING, ids=lambda physics: type(physics).__name__)
def test_reconstructs_what_was_observed(client: Client, clean: torch.Tensor, physics: Physics) -> None:
    y = physics(clean)
    found = LemmseReconstructor(client)(y, physics)
    measured = physics.A_adjoint(y)
    observed = physics.A_adjoint(torch.ones_like(y)).expand_as(measured)
    options = [{} if isinstance(physics, Denoising) else {"mask": mask.movedim(0, -1)} for mask in observed]
    expected = [single(client, x, 0.05, **one) for x, one in zip(measured, options, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))
    assert torch.mean((found - clean) ** 2) < 0.25 * torch.mean((measured - clean) ** 2)


def test_reconstructs_the_blur_of_the_index(client: Client, clean: torch.Tensor, tmp_path: Path) -> None:
    blurred = built(tmp_path, 4, physics="blur:gaussian:1.0", pre_inverse="wiener:0.01")
    kernel = {"filter": gaussian_blur(sigma=(1.0, 1.0)), "noise_model": NOISE}
    for physics in (BlurFFT(SHAPE, **kernel), Blur(padding="circular", **kernel)):
        y = physics(clean)
        with connect(blurred) as own:
            found = LemmseReconstructor(own)(y, physics)
            torch.testing.assert_close(found[0], single(own, y[0], 0.05))
            assert torch.mean((found - clean) ** 2) < torch.mean((y - clean) ** 2)
            other = BlurFFT(SHAPE, filter=gaussian_blur(sigma=(0.5, 0.5)), noise_model=NOISE)
            with pytest.raises(InvalidArgument, match=r"^physics: expected the blur that index smooth was"):
                LemmseReconstructor(own)(y, other)
        with pytest.raises(
            FailedPrecondition, match=r"needs an index built with --physics blur:…, smooth is"
        ):
            LemmseReconstructor(client)(y, physics)


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        (Denoising(PoissonNoise()), r"^noise: expected GaussianNoise, got PoissonNoise"),
        (
            Tomography(4, 12, normalize=False, noise_model=NOISE),
            r"^physics: expected Denoising, Inpainting, .*got Tomography",
        ),
        (Downsampling(SHAPE, filter="gaussian", noise_model=NOISE), r"^physics: expected .*got Downsampling"),
    ],
)
def test_other_physics_are_refused(
    client: Client, clean: torch.Tensor, physics: Physics, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        LemmseReconstructor(client)(physics.A(clean), physics)


def test_arguments_that_are_refused(client: Client, clean: torch.Tensor, tmp_path: Path) -> None:
    denoiser = LemmseDenoiser(client)
    with pytest.raises(InvalidArgument, match=r"^x: expected shape \(B, C, H, W\), got \(3, 12, 12\)"):
        denoiser(clean[0], 0.1)
    with pytest.raises(
        InvalidArgument, match=r"^sigma: expected one number, one for each of 2 images, or maps"
    ):
        denoiser(clean, torch.ones(3))
    with pytest.raises(InvalidArgument, match=r"^sigma: "):
        denoiser(clean, -0.1)
    with pytest.raises(InvalidArgument, match=r"^y: expected an image of shape \(H, W, 3\)"):
        denoiser(clean[:, :1], 0.1)
    with pytest.raises(NotFound):
        LemmseDenoiser(tmp_path / "none")
    for kind in (LemmseDenoiser, LemmseReconstructor):
        with pytest.raises(InvalidArgument, match=r"^noise: expected gaussian, with the sigma of deepinv"):
            kind(client, noise="poisson-gaussian", gain=0.1)


def test_says_what_it_is(client: Client, index: Path) -> None:
    assert (
        repr(LemmseDenoiser(client, mode="topk")) == f"LemmseDenoiser(<EmbeddedClient {index}>, mode='topk')"
    )
    assert repr(LemmseReconstructor(client)) == f"LemmseReconstructor(<EmbeddedClient {index}>)"


def test_the_documented_example_runs(index: Path, clean: torch.Tensor) -> None:
    page = (ROOT / "docs/integrations.md").read_text()
    (snippet,) = re.findall(r"## deepinv\n.*?```python\n(.*?)```", page, re.S)
    names = {"index": index, "clean": clean}
    exec(snippet, names)
    for name in ("own", "plugged", "gradient"):
        assert names[name].shape == clean.shape, name


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Page()
    page.run(ROOT / "docs/tutorials/plug-and-play.md")
    measured, own, plugged = (page.names["psnr"](page.names[name]) for name in ("y", "own", "plugged"))
    assert measured + 5 < plugged < own
    assert page.names["gradient"].shape == (1, 1, 32, 32)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> LemmseDenoiser:
    """A denoiser of images that are mosaics of 4 × 4 squares."""
    folder = tmp_path_factory.mktemp("blocks")
    np.save(folder / "images.npy", np.stack([mosaic(seed) for seed in range(6)]))
    return LemmseDenoiser(build([folder / "images.npy"], folder / "blocks", patch_size=5))


def mosaic(seed: int) -> np.ndarray:
    return np.kron(np.random.default_rng(seed).random((4, 4, 3)), np.ones((4, 4, 1))).astype(np.float32)


def by_pgd(denoiser: LemmseDenoiser, physics: Physics) -> Callable[..., torch.Tensor]:
    settings = {"stepsize": _step(physics), "sigma_denoiser": 0.3, "max_iter": 8}
    return PGD(prior=PnP(denoiser), data_fidelity=L2(), **settings)


def by_red(denoiser: LemmseDenoiser, physics: Physics) -> Callable[..., torch.Tensor]:
    settings = {"stepsize": _step(physics) / 2, "lambda_reg": 0.3, "sigma_denoiser": 0.5, "max_iter": 8}
    return PGD(prior=RED(denoiser), data_fidelity=L2(), g_first=True, **settings)


def _step(physics: Physics) -> float:
    """The inverse of the square of the norm of the operator."""
    return 4.0 if isinstance(physics, Downsampling) else 1.0


def by_dps(denoiser: LemmseDenoiser, physics: Physics) -> Callable[..., torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return DPS(denoiser, num_steps=20, weight=300 if isinstance(physics, Downsampling) else 100, rng=rng)


ALGORITHMS = {
    "PnP-PGD": by_pgd,
    "RED": by_red,
    "DPIR": lambda denoiser, physics: DPIR(sigma=0.05, denoiser=denoiser),
    "DiffPIR": lambda denoiser, physics: DiffPIR(denoiser, L2(), max_iter=8, zeta=1.0, lambda_=1.0),
    "DDRM": lambda denoiser, physics: DDRM(denoiser, sigmas=np.linspace(1, 0, 8)),
    "DPS": by_dps,
}
PROBLEMS = {
    "inpainting": Inpainting((3, 16, 16), mask=0.6, noise_model=NOISE),
    "deblurring": BlurFFT((3, 16, 16), filter=gaussian_blur(sigma=(1.0, 1.0)), noise_model=NOISE),
    "x2 super-resolution": Downsampling(
        (3, 16, 16), factor=2, filter="gaussian", padding="circular", noise_model=NOISE
    ),
}
# DDRM needs a singular value decomposition, which deepinv has not of the last one.
CELLS = [(a, p) for a in ALGORITHMS for p in PROBLEMS if (a, p) != ("DDRM", "x2 super-resolution")]


@pytest.mark.parametrize(("algorithm", "problem"), CELLS)
def test_is_a_prior_of_algorithms(blocks: LemmseDenoiser, algorithm: str, problem: str) -> None:
    physics = PROBLEMS[problem]
    moved = [np.roll(mosaic(seed), (3, 5), axis=(0, 1)) for seed in (1, 4)]
    clean = torch.from_numpy(np.stack(moved)).movedim(-1, 1).contiguous()
    y = physics(clean)
    picture = torch.nn.functional.interpolate(y, (16, 16))
    begin = {"init": picture} if algorithm in ("PnP-PGD", "RED", "DPIR") else {}
    found = ALGORITHMS[algorithm](blocks, physics)(y, physics, **begin)
    assert found.shape == clean.shape
    assert found.isfinite().all()
    psnr = deepinv.metric.PSNR()
    assert psnr(found.float(), clean).mean() > psnr(picture, clean).mean()
