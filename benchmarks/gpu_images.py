"""Whole images on a GPU: hybrid beside exact at several σ, and what auto chooses."""

import statistics
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures import decibels
from lemmse.estimator import Reconstructor
from lemmse.index import build
from lemmse.index.images.stack import Images
from lemmse.index.sources import iterate, open_source


def build_index(source: str, count: int, folder: Path) -> Path:
    """Build an index of the first images of a source, which have one size, and return its folder."""
    np.save(folder / "x.npy", np.stack([image for image, _ in islice(iterate(open_source(source)), count)]))
    return build([folder / "x.npy"], folder / "index")


def mosaic(images: Images[np.float32], side: int) -> NDArray[np.float32]:
    """Return the last tenth of the images, which have one size, side by side, (side, side, C)."""
    some = [images[k] for k in range(len(images) - max(1, len(images) // 10), len(images))]
    height, width, _ = some[0].shape
    rows, columns = -(-side // height), -(-side // width)
    tiles = [some[k % len(some)] for k in range(rows * columns)]
    lines = [np.concatenate(tiles[columns * row : columns * (row + 1)], axis=1) for row in range(rows)]
    return np.concatenate(lines)[:side, :side]


def hybrid_beside_exact(
    lemmse: Reconstructor, clean: NDArray[np.float32], sigma: float, repeats: int
) -> dict[str, Any]:
    """Return a row of the table: medians of seconds for an image in each mode, and how hybrid agrees."""
    y = clean + sigma * np.random.default_rng(0).standard_normal(clean.shape)
    lemmse.reconstruct(y, sigma=sigma, mode="hybrid")  # and compile
    chosen = lemmse.reconstruct(y, sigma=sigma)  # and measure, if the image is large
    turns = [
        [lemmse.reconstruct(y, sigma=sigma, mode=mode) for mode in ("exact", "hybrid", "auto")]
        for _ in range(repeats)
    ]
    exact, hybrid, _ = turns[0]
    seconds = [
        statistics.median(one.diagnostics.seconds for one in column) for column in zip(*turns, strict=True)
    ]
    return {
        "sigma": sigma,
        "pixels": y[..., 0].size,
        "keys": lemmse.index.manifest.distinct,
        **dict(zip(("exact_s", "hybrid_s", "auto_s"), seconds, strict=True)),
        "first_auto_s": chosen.diagnostics.seconds,
        "auto": turns[0][2].diagnostics.mode,
        "agreement_db": decibels((hybrid.image - exact.image) ** 2),
        "estimated_db": hybrid.diagnostics.estimated_accuracy_db,
        "keys_percent": 100 * hybrid.diagnostics.keys_touched / lemmse.index.manifest.distinct,
    }
