"""Every inverse problem, agnostic and aware, and many problems from one index: tables and pictures.

    python -m benchmarks.problems --out docs/problems [--fashion FOLDER] [--images N] [--seed S]

Training images are photographs (tiles of sample:photos) and, if it is installed, FashionMNIST; the
reconstructed images are in neither. The tables are printed and written to OUT/tables.md, the figures beside
them. Indexes are built in temporary folders.
"""

import argparse
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from scipy.interpolate import griddata
from scipy.spatial.distance import cdist

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from lemmse.index.images.stack import Images
from lemmse.index.physics import InverseProblem
from lemmse.index.sources import intensities, open_source, photograph

P = 5
SIGMAS = (0.05, 0.2, 0.8)
SHOWN = 0.05
"""σ of the figures, and of the problems given per request."""
SIDE = 32
"""Side of the photographs' tiles, in pixels."""
STRIDE = 2
"""One of this many tiles is used."""
FASHION = 400
"""FashionMNIST images in the index."""
CROPS = ((42, 70), (104, 112), (2, 104), (50, 142), (60, 20), (16, 176))
"""Row and column of each held-out part of the photograph: eye, nose, forehead, eye, cheek, ear."""
LARGE = (40, 64)
"""Row and column of the part that is reconstructed with problems given per request."""
REFERENCE, REFERENCE_BLUR = 20, "blur:gaussian:1.0"
"""Training images and physics of the comparison with float64."""
PER_REQUEST = "mask per request"
"""Used instead of a pre-inverse: an index of clean patches, with the mask in each request."""
INVERTED = ("blur:gaussian:1.0", "blur:gaussian:2.0", "blur:disk:2.5", "blur:MOTION")
"""Blurs whose inverse is examined."""
PATCH_SIZES = (5, 7, 9, 11)
"""Patch sizes for which it is examined."""
ERROR_WHITE = 0.3
"""Error that the figures show at full brightness."""

Image = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Data:
    """A training set, and images that are not in it."""

    name: str
    """Name in the tables."""
    stem: str
    """Name in file names."""
    training: NDArray[Any]
    """Training images, (N, H, W, C) uint8."""
    held_out: list[Image]
    """Held-out images of the training images' size, intensities."""
    requested: list[Image]
    """Held-out images of any size, for the problems given per request."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A forward operator and its pre-inverses other than the identity."""

    name: str
    """Name in the tables."""
    physics: str
    """Specification of A; MOTION stands for the file of the motion kernel."""
    aware: tuple[str, ...] = ()
    """Specifications of B, or PER_REQUEST; the figures show the first."""


PROBLEMS = (
    Problem("denoise", "identity"),
    Problem("inpaint:center:15", "inpaint:center:15", ("mask", "epsilon:1e-3", PER_REQUEST)),
    Problem("inpaint:random:30", "inpaint:random:30", ("mask", "epsilon:1e-3", PER_REQUEST)),
    # λ is one value for all blurs and σ: σ² at the middle of the three, rounded; it was not tuned.
    Problem("blur:gaussian:1.0", "blur:gaussian:1.0", ("wiener:0.05", "inverse")),
    Problem("blur:disk:2.5", "blur:disk:2.5", ("wiener:0.05", "inverse")),
    Problem("blur:motion.npy", "blur:MOTION", ("wiener:0.05", "inverse")),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The reconstructions of all held-out images by one index at one σ."""

    sigma: float
    """Noise standard deviation."""
    measured: list[Image]
    """The measurements."""
    images: list[Image]
    """The reconstructions."""


def psnr(images: Sequence[Image], clean: Sequence[Image]) -> float:
    """Return the mean over the images of the PSNR, in dB, for a peak of 1."""
    errors = [np.mean((image - x) ** 2) for image, x in zip(images, clean, strict=True)]
    return statistics.fmean(-10 * math.log10(error) for error in errors)


def photographs(count: int) -> Data:
    source = open_source("sample:photos")
    tiles = np.stack([source[k] for k in range(len(source))])  # (N, 64, 64, 3)
    n, side = tiles.shape[:2]
    split = tiles.reshape(n, side // SIDE, SIDE, side // SIDE, SIDE, 3).swapaxes(2, 3)
    cat = photograph("chelsea") / 255
    crops = [cat[row : row + SIDE, column : column + SIDE] for row, column in CROPS[:count]]
    row, column = LARGE
    large = cat[row : row + 2 * SIDE, column : column + 2 * SIDE]
    return Data("photographs", "photographs", split.reshape(-1, SIDE, SIDE, 3)[::STRIDE], crops, [large])


def fashion_mnist(folder: Path, count: int) -> Data:
    train = open_source(folder / "train-images-idx3-ubyte.gz")
    test = open_source(folder / "t10k-images-idx3-ubyte.gz")
    held_out = [intensities(test[k]).astype(np.float64) for k in range(count)]
    return Data("FashionMNIST", "fashion", np.stack([train[k] for k in range(FASHION)]), held_out, held_out)


def motion_kernel() -> Image:
    """Return the kernel of a curved stroke, as from a camera shaken by some pixels, (9, 9)."""
    t = np.linspace(0, 1, 2000)
    row, column = 4 + 2.5 * np.sin(2.2 * t - 0.66), 1 + 6 * t
    cells = np.arange(9)[:, None]
    kernel = np.clip(1 - np.abs(cells - row), 0, None) @ np.clip(1 - np.abs(cells - column), 0, None).T
    return np.asarray(kernel / kernel.sum())


@contextmanager
def index_of(
    training: NDArray[Any], physics: str = "identity", pre_inverse: str = "identity"
) -> Iterator[Reconstructor]:
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/training.npy", training)
        np.save(f"{folder}/motion.npy", motion_kernel())
        built = build(
            [f"{folder}/training.npy"],
            f"{folder}/index",
            patch_size=P,
            physics=physics.replace("MOTION", f"{folder}/motion.npy"),
            pre_inverse=pre_inverse,
        )
        yield Reconstructor(open_index(built))


def noisy(x: Image, sigma: float, seed: int, number: int) -> Image:
    """Add noise that is the same in all problems for an image of the same number."""
    return x + sigma * np.random.default_rng([seed, number]).standard_normal(x.shape)


def solve(data: Data, physics: str, pre_inverse: str, seed: int) -> list[Answer]:
    """Reconstruct the held-out images at every σ with an index for the problem.

    Raises
    ------
    InvalidArgument
        The pre-inverse is refused.
    """
    mask = None
    if pre_inverse == PER_REQUEST:
        mask = InverseProblem.parse(physics, "mask").scale(data.held_out[0].shape)
        physics = pre_inverse = "identity"
    with index_of(data.training, physics, pre_inverse) as lemmse:
        problem = lemmse.index.problem
        seen = [problem.measure(x) if mask is None else mask * x for x in data.held_out]
        answers = []
        for sigma in SIGMAS:
            measured = [noisy(x, sigma, seed, k) for k, x in enumerate(seen)]
            images = [lemmse.reconstruct(y, sigma=sigma, mask=mask, mode="exact").image for y in measured]
            answers.append(Answer(sigma, measured, [image.astype(np.float64) for image in images]))
    return answers


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def verdict(gain: float) -> str:
    """Return the name of the better one, by the gain of aware over agnostic in dB."""
    if abs(gain) < 0.05:
        return "equal"
    return f"{'aware' if gain > 0 else 'agnostic'} by {abs(gain):.1f}"


def compare(data: Data, out: Path, seed: int, console: Console) -> str:
    """Measure every problem with its pre-inverses: a full table, one of the differences, and a panel."""
    rows, differences, panel = [], [], []
    for problem in PROBLEMS:
        console.log(f"{data.name}: {problem.name}")
        agnostic = solve(data, problem.physics, "identity", seed)
        shown = {"agnostic": agnostic}
        if not problem.aware:
            rows += [row(problem.name, "–", a, None, data.held_out) for a in agnostic]
        for pre_inverse in problem.aware:
            try:
                aware = solve(data, problem.physics, pre_inverse, seed)
            except InvalidArgument as error:
                rows.append([problem.name, pre_inverse, "refused", error.expected, "", "", ""])
                continue
            shown[pre_inverse] = aware
            pairs = list(zip(agnostic, aware, strict=True))
            rows += [row(problem.name, pre_inverse, a, b, data.held_out) for a, b in pairs]
            gains = [psnr(b.images, data.held_out) - psnr(a.images, data.held_out) for a, b in pairs]
            differences.append([problem.name, pre_inverse, *(f"{gain:+.1f}" for gain in gains)])
        panel.append((problem.name, dict(list(shown.items())[:2])))
    draw_problems(out / f"{data.stem}.png", data.held_out[0], panel)
    header = ["problem", "aware pre-inverse", "σ", "measurement", "agnostic", "aware", "better"]
    brief = ["problem", "aware pre-inverse", *(f"σ = {sigma:g}" for sigma in SIGMAS)]
    return (
        f"PSNR in dB:\n\n{markdown(header, rows)}\nAware minus agnostic, in dB:\n\n"
        f"{markdown(brief, differences)}"
    )


def row(
    problem: str, pre_inverse: str, agnostic: Answer, aware: Answer | None, clean: list[Image]
) -> list[str]:
    before, after = psnr(agnostic.measured, clean), psnr(agnostic.images, clean)
    first = [problem, pre_inverse, f"{agnostic.sigma:g}", f"{before:.2f}", f"{after:.2f}"]
    if aware is None:
        return [*first, "–", "–"]
    other = psnr(aware.images, clean)
    return [*first, f"{other:.2f}", verdict(other - after)]


def requests(shape: tuple[int, ...], seed: int) -> dict[str, tuple[float | Image, NDArray[np.bool_] | None]]:
    """Return σ and mask of each problem that is given per request, by name."""
    height, width, channels = shape
    ramp = np.broadcast_to(np.linspace(0.01, 0.3, width), (height, width))
    blocks = (np.arange(height)[:, None] % 12 < 8) | (np.arange(width) % 12 < 8)
    grid = np.zeros((height, width), np.bool_)
    grid[::2, ::2] = True
    asked: dict[str, tuple[float | Image, NDArray[np.bool_] | None]] = {
        "noise map, σ from 0.01 to 0.3": (ramp, None),
        "random mask, 50 % missing": (SHOWN, np.random.default_rng(seed).random((height, width)) < 0.5),
        "block mask, 4×4 missing": (SHOWN, blocks),
        "super-resolution ×2, decimated": (SHOWN, grid),
    }
    if channels == 3:
        bayer = np.zeros(shape, np.bool_)
        bayer[::2, ::2, 0] = bayer[::2, 1::2, 1] = bayer[1::2, ::2, 1] = bayer[1::2, 1::2, 2] = True
        asked["Bayer mosaic, RGGB"] = (SHOWN, bayer)
    return asked


def fill(y: Image, mask: NDArray[np.bool_]) -> Image:
    """Interpolate the missing pixels linearly; outside the hull of the observed pixels take the nearest."""
    filled = y.copy()
    for c in range(y.shape[2]):
        seen = np.broadcast_to(mask if mask.ndim == 2 else mask[..., c], y.shape[:2])
        known, missing = np.argwhere(seen), np.argwhere(~seen)
        linear = griddata(known, y[seen, c], missing, "linear")
        nearest = griddata(known, y[seen, c], missing, "nearest")
        filled[~seen, c] = np.where(np.isnan(linear), nearest, linear)
    return filled


def request(data: Data, out: Path, seed: int, console: Console) -> str:
    """Measure the problems that are given per request on one identity index: a table and a panel."""
    console.log(f"{data.name}: one index, a problem for each request")
    rows, panel = [], []
    with index_of(data.training) as lemmse:
        for name, (sigma, mask) in requests(data.requested[0].shape, seed).items():
            noise = sigma if isinstance(sigma, float) else sigma[..., None]
            measured = [
                x + noisy(np.zeros_like(x), 1.0, seed, k) * noise for k, x in enumerate(data.requested)
            ]
            simple = measured if mask is None else [fill(y, mask) for y in measured]
            images = [
                lemmse.reconstruct(y, sigma=sigma, mask=mask, mode="exact").image.astype(np.float64)
                for y in measured
            ]
            before, after = psnr(simple, data.requested), psnr(images, data.requested)
            kind = "the noisy image" if mask is None else "linear fill"
            rows.append([name, kind, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.1f}"])
            seen = measured[0]
            if mask is not None:
                seen = np.where(mask if mask.ndim == 3 else mask[..., None], seen, 0)
            panel.append((name, seen, simple[0], images[0]))
    draw_requests(out / f"{data.stem}-requests.png", data.requested[0], panel)
    return markdown(["request", "input", "PSNR in", "PSNR out", "gain"], rows)


def draw_problems(path: Path, clean: Image, panel: list[tuple[str, dict[str, list[Answer]]]]) -> None:
    figure = Figure(figsize=(12.5, 2.25 * len(panel)), layout="constrained")
    axes = figure.subplots(len(panel), 6, squeeze=False)
    for line, (problem, shown) in zip(axes, panel, strict=True):
        answers = {
            name: next(answer for answer in answers if answer.sigma == SHOWN)
            for name, answers in shown.items()
        }
        measured = answers["agnostic"].measured[0]
        show(line[0], clean, problem)
        line[0].title.set_fontweight("bold")
        show(line[1], measured, f"measurement {psnr([measured], [clean]):.1f} dB")
        for k, (name, answer) in enumerate(answers.items()):
            image = answer.images[0]
            show(line[2 + k], image, f"{name} {psnr([image], [clean]):.1f} dB")
            show_error(line[4 + k], image - clean, f"|error|, {name}")
        for ax in line.flat:
            ax.set_axis_off()
    figure.savefig(path, dpi=90)


def draw_requests(path: Path, clean: Image, panel: list[tuple[str, Image, Image, Image]]) -> None:
    figure = Figure(figsize=(12.5, 2.65 * len(panel)), layout="constrained")
    axes = figure.subplots(len(panel), 5, squeeze=False)
    for line, (name, seen, simple, image) in zip(axes, panel, strict=True):
        show(line[0], clean, name)
        line[0].title.set_fontweight("bold")
        show(line[1], seen, f"measurement {psnr([seen], [clean]):.1f} dB")
        if simple is not seen:
            show(line[2], simple, f"linear fill {psnr([simple], [clean]):.1f} dB")
        show(line[3], image, f"reconstruction {psnr([image], [clean]):.1f} dB")
        show_error(line[4], image - clean, "|error|")
        for ax in line.flat:
            ax.set_axis_off()
    figure.savefig(path, dpi=90)


def show(ax: Axes, image: Image, title: str) -> None:
    grey = image.shape[2] == 1
    ax.imshow(np.clip(image[..., 0] if grey else image, 0, 1), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=9)


def show_error(ax: Axes, error: Image, title: str) -> None:
    ax.imshow(np.abs(error).mean(axis=2), cmap="magma", vmin=0, vmax=ERROR_WHITE)
    ax.set_title(title, fontsize=9)


def agreement(data: Data, seed: int) -> str:
    """Return the PSNR between the index's answer to an inverse and a float64 sum with another whitening."""
    training, x = data.training[:REFERENCE], data.held_out[0]
    rows = []
    for pre_inverse in ("wiener:0.05", "inverse"):
        with index_of(training, REFERENCE_BLUR, pre_inverse) as lemmse:
            problem = lemmse.index.problem
            clean = Images.stack([intensities(image).astype(np.float64) for image in training])
            seen = Images.stack([problem.pre_invert(problem.measure(clean[k])) for k in range(len(training))])
            n = np.arange(seen.positions)
            covariance = problem.covariance(x.shape, P)
            root = np.linalg.cholesky(covariance)
            v = np.linalg.solve(root, seen.patches(n, P, "circular").T).T  # (M, P)
            values = []
            for sigma in SIGMAS:
                y = noisy(problem.measure(x), sigma, seed, 0)
                z = Images.stack([problem.pre_invert(y)])
                u = np.linalg.solve(root, z.patches(np.arange(z.positions), P, "circular").T).T
                log_w = -cdist(u, v, "sqeuclidean") / (2 * sigma**2)
                w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
                expected = (w @ clean.pixels[n] / w.sum(axis=1, keepdims=True)).reshape(x.shape)
                image = lemmse.reconstruct(y, sigma=sigma, mode="exact").image
                values.append(f"{psnr([image.astype(np.float64)], [expected]):.0f}")
            condition = lemmse.index.manifest.condition
            rows.append([pre_inverse, f"{condition:.1e}", f"{np.abs(v).max():.2g}", *values])
    header = ["pre-inverse", "condition of S", "largest white key", *(f"σ = {sigma:g}" for sigma in SIGMAS)]
    return markdown(header, rows)


def conditions(shape: tuple[int, ...]) -> str:
    """Return the condition number of the noise in a patch for each inverse, or "refused"."""
    rows = []
    height, width, channels = shape
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/motion.npy", motion_kernel())
        for physics in INVERTED:
            inverse = InverseProblem.parse(physics.replace("MOTION", f"{folder}/motion.npy"), "inverse")
            cells = []
            for p in PATCH_SIZES:
                try:
                    cells.append(f"{inverse.whitening((height, width, channels), p).condition:.1e}")
                except InvalidArgument as error:
                    cells.append(f"refused: {error.expected}")
            rows.append([physics.replace("MOTION", "motion.npy"), *cells])
    return markdown(["blur", *(f"p = {p}" for p in PATCH_SIZES)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures and tables.md")
    parser.add_argument(
        "--fashion",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of FashionMNIST's idx files (default %(default)s)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=4,
        choices=range(1, len(CROPS) + 1),
        help="held-out images of each data set (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise and of the masks per request")
    arguments = parser.parse_args()

    start = time.perf_counter()
    console = Console(stderr=True)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    sets = [photographs(arguments.images)]
    if arguments.fashion.is_dir():
        sets.append(fashion_mnist(arguments.fashion, arguments.images))
    else:
        print(f"FashionMNIST is left out: no folder {arguments.fashion}")
    parts = []
    for data in sets:
        n, height, width, channels = data.training.shape
        parts += [
            f"## {data.name}\n\n{n} training images of {height}×{width}×{channels}, {len(data.held_out)} "
            f"held-out images, p = {P}, mode exact.\n\n{compare(data, out, arguments.seed, console)}",
            "### One identity index, a problem for each request\n\n"
            + request(data, out, arguments.seed, console),
        ]
    shape = sets[0].held_out[0].shape
    parts += [
        f"## Agreement with float64\n\n{REFERENCE_BLUR}, {REFERENCE} training images, PSNR in dB between "
        f"the two answers:\n\n{agreement(sets[0], arguments.seed)}",
        f"## Condition of the inverse\n\nImages of {shape[0]}×{shape[1]}×{shape[2]}:\n\n{conditions(shape)}",
        f"{time.perf_counter() - start:.0f} s on {os.cpu_count()} cores, {platform.machine()}\n",
    ]
    text = "\n".join(parts)
    (out / "tables.md").write_text(f"# Tables of `python -m benchmarks.problems`\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
