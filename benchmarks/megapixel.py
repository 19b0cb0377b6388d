"""Seconds for a megapixel, and the PSNR: mode hybrid beside BM3D, non-local means and exact, in one run.

    python -m benchmarks.megapixel (--source FILE [--limit N] [--patch-size P] | --index DIR) --test FILE
        [--size WIDTHxHEIGHT] [--part N] [--repeats N] [--out DIR]

The test image is an image file, the first image of a .npy file, or a photograph of scikit-image at half its
size, for example sample:coffee; all photographs but sample:chelsea are among the images of sample:photos. Its
centre of --size is denoised at each σ by hybrid at several accuracy_db, by BM3D (left out if the package bm3d
is missing) and by non-local means (scikit-image, fast_mode, h = 0.8σ, patch_size 5, patch_distance 6). The
exact sum denoises a square of N×N pixels in the centre of that, and its seconds are scaled up. BM3D takes a
part of its time for every call, however small the image: a megapixel in one call takes it less.

Seconds are the median over the repeats, in which all methods take turns; `bm3d ratio` is the seconds of BM3D
over those of the method. PSNR is that to the clean image, after clipping to [0, 1], over all pixels and over
those of the square whose patches are inside it. Over the latter, the agreement is the PSNR to the exact sum,
at most 100 dB.

A second table compares 16 crops of 32×32 pixels in one batch with one crop, mean of the 16 alone.
OUT/megapixel.json has both tables.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.inputs import add_index_options, index_folder, read_images
from benchmarks.measures import decibels, print_rows, timed
from benchmarks.quality.classical import load_bm3d, load_fast_nlm
from benchmarks.quality.data import Image
from benchmarks.quality.scores import add_noise
from lemmse.client import Client, LemmseError, connect
from lemmse.contract.errors import NotFound
from lemmse.index.sources import intensities, photograph

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)
ACCURACIES = (35.0, 40.0, 45.0, 50.0)
BATCH, BATCH_SIDE, BATCH_ACCURACY = 16, 32, 40.0
WARM_UP = 16
"""Side of the image that each method denoises before it is timed."""
SAMPLE = "sample:"

Denoise = Callable[[Image, float], NDArray[np.floating[Any]]]
"""Maps a noisy image and σ to an image."""
Size = tuple[int, int]
"""Height and width, in pixels."""
Number = TypeVar("Number", bound=np.floating[Any])


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one σ."""

    sigma: float
    method: str
    seconds_per_megapixel: float | None
    bm3d_ratio: float | None
    """Seconds of BM3D over those of the method."""
    psnr: float | None
    part_psnr: float
    """PSNR in the part that exact denoises."""
    agreement_db: float | None
    """Agreement with exact in that part."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Many crops in one batch, at one σ."""

    sigma: float
    accuracy_db: float
    crops: int
    seconds_of_one: float
    seconds_of_batch: float
    ratio: float


def centre(image: NDArray[Number], size: Size) -> NDArray[Number]:
    """Return the middle of an image, of this size or as large as the image."""
    return image[tuple(middle(length, most) for length, most in zip(image.shape, size, strict=False))]


def middle(length: int, most: int) -> slice:
    start = max(0, length - most) // 2
    return slice(start, start + min(length, most))


def inside(image: NDArray[Number], margin: int) -> NDArray[Number]:
    """Return an image without its border."""
    height, width = image.shape[:2]
    return image[margin : height - margin, margin : width - margin]


def hybrid(client: Client, accuracy_db: float, y: Image, sigma: float) -> NDArray[np.float32]:
    return client.reconstruct(y, sigma=sigma, mode="hybrid", accuracy_db=accuracy_db).image


def exact(client: Client, y: Image, sigma: float) -> NDArray[np.float32]:
    return client.reconstruct(y, sigma=sigma, mode="exact").image


def contestants(client: Client) -> dict[str, Denoise]:
    """Return the methods that denoise the whole image, without those whose packages are missing."""
    methods: dict[str, Denoise] = {f"hybrid {db:g} dB": partial(hybrid, client, db) for db in ACCURACIES}
    for name, load in (("BM3D", load_bm3d), ("NLM", load_fast_nlm)):
        try:
            methods[name] = load()
        except NotFound as error:
            print(f"left out: {error}")
    return methods


def measure(
    client: Client, methods: dict[str, Denoise], clean: Image, sigma: float, part: int, repeats: int
) -> list[Row]:
    """Return the rows of one σ."""
    (info,) = client.list_indexes()
    size, margin = (part, part), info.patch_size // 2
    y = add_noise(clean, sigma, [round(sigma * 1e6)])
    y_part = centre(y, size)
    summed = partial(exact, client, y_part, sigma)
    work = {name: partial(denoise, y, sigma) for name, denoise in methods.items()}
    turns = [{name: timed(call) for name, call in (work | {"exact": summed}).items()} for _ in range(repeats)]
    images = {name: image for name, (image, _) in turns[0].items()}
    seconds = {name: statistics.median(turn[name][1] for turn in turns) for name in images}
    rates = {name: 1e6 * seconds[name] / (y_part if name == "exact" else y)[..., 0].size for name in images}

    def row(name: str, image: NDArray[np.floating[Any]]) -> Row:
        own = inside(image if name == "exact" else centre(image, size), margin)
        rate = rates.get(name)
        return Row(
            sigma=sigma,
            method=name,
            seconds_per_megapixel=rate,
            bm3d_ratio=rates["BM3D"] / rate if rate and "BM3D" in rates else None,
            psnr=None if name == "exact" else psnr(image, clean),
            part_psnr=psnr(own, inside(centre(clean, size), margin)),
            agreement_db=decibels(np.square(own - inside(images["exact"], margin).astype(np.float64)))
            if name.startswith("hybrid")
            else None,
        )

    return [row("noisy", y), *(row(name, image) for name, image in images.items())]


def psnr(image: NDArray[np.floating[Any]], clean: Image) -> float:
    return decibels(np.square(np.clip(image, 0, 1) - clean))


def batch(client: Client, clean: Image, sigma: float) -> Batch:
    """Compare crops in one batch with the same crops one by one."""
    rng = np.random.default_rng(0)
    crops = [add_noise(crop(clean, rng), sigma, [number]) for number in range(BATCH)]
    options: dict[str, Any] = {"sigma": sigma, "mode": "hybrid", "accuracy_db": BATCH_ACCURACY}
    one = statistics.fmean(timed(partial(client.reconstruct, y, **options))[1] for y in crops)
    outcomes, seconds = timed(lambda: list(client.reconstruct_many(crops, **options)))
    for outcome in outcomes:
        if isinstance(outcome, LemmseError):
            raise outcome
    return Batch(sigma, BATCH_ACCURACY, BATCH, one, seconds, seconds / one)


def crop(image: Image, rng: np.random.Generator) -> Image:
    """Return a random crop of an image, which is smaller only if the image is."""
    row, column = (rng.integers(max(1, length - BATCH_SIDE + 1)) for length in image.shape[:2])
    return image[row : row + BATCH_SIDE, column : column + BATCH_SIDE]


def read_image(spec: str) -> Image:
    """Return the test image."""
    if spec.startswith(SAMPLE):
        return intensities(photograph(spec.removeprefix(SAMPLE))).astype(np.float64)
    return read_images(spec, 1)[0]


def as_size(text: str) -> Size | None:
    """Return the size that a text like 256x128 (width × height) or "all" stands for."""
    if text == "all":
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT in pixels or all, got {text}")
    return int(height), int(width)


def run(arguments: argparse.Namespace) -> None:
    clean = read_image(arguments.test)
    if arguments.size:
        clean = centre(clean, arguments.size)
    height, width, _ = clean.shape
    rows: list[Row] = []
    batches: list[Batch] = []
    with index_folder(arguments) as folder, connect(folder) as client:
        (info,) = client.list_indexes()
        methods = contestants(client)
        for denoise in methods.values():
            denoise(centre(clean, (WARM_UP, WARM_UP)), SIGMAS[0])
        for sigma in track(arguments.sigmas, console=Console(stderr=True)):
            rows += measure(client, methods, clean, sigma, arguments.part, arguments.repeats)
            batches.append(batch(client, clean, sigma))
    save(arguments.out, {"index": asdict(info), "size": [height, width]}, rows, batches)
    print_rows(
        [asdict(row) for row in rows], f"{width}×{height} pixels, {info.keys} keys, p = {info.patch_size}"
    )
    print_rows([asdict(one) for one in batches], f"Crops of {BATCH_SIDE}×{BATCH_SIDE} pixels")


def save(out: Path, about: dict[str, Any], rows: Sequence[Row], batches: Sequence[Batch]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    content = about | {"rows": [asdict(row) for row in rows], "batches": [asdict(one) for one in batches]}
    (out / "megapixel.json").write_text(json.dumps(content, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_index_options(parser)
    parser.add_argument("--test", required=True, help="an image that is not in the index, or sample:NAME")
    parser.add_argument(
        "--size", type=as_size, default="256x128", help="WIDTHxHEIGHT, or all (default %(default)s)"
    )
    parser.add_argument("--part", type=int, default=32, help="side of the exact part (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="(default %(default)s)")
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS, help="(default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("megapixel"), help="folder for JSON")
    try:
        run(parser.parse_args())
    except LemmseError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
