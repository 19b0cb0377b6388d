"""Results, one for each data set, method and σ, written to disk as soon as they are computed."""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.quality.data import Data, Image
from benchmarks.quality.methods import Method, Ready, digest
from benchmarks.quality.scores import noisy, psnr, ssim

SHOWN = 3
"""Number of images whose reconstructions are stored, for the figures."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Result of one method on one data set at one σ."""

    dataset: str
    method: str
    sigma: float
    psnr: float
    """Mean over the images, in dB."""
    ssim: float
    """Mean over the images."""
    seconds: float
    """Time per image."""
    images: int
    """Number of held-out images that were reconstructed."""
    training: int
    """Number of training images that the method used."""
    strength: float | None
    """Strength that was chosen on training images."""


class Results:
    """The finished cells in a folder, each stored under a digest of everything it depends on."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "results.json"
        self.answers = folder / "answers"
        self.answers.mkdir(parents=True, exist_ok=True)
        self.cells: dict[str, Cell] = {}
        if self.path.exists():
            self.cells = {key: Cell(**cell) for key, cell in json.loads(self.path.read_text()).items()}

    def find(self, data: Data, method: Method, sigma: float) -> Cell | None:
        """Return a finished cell, or None."""
        return self.cells.get(_key(data, method, sigma))

    def pictures(self, data: Data, method: Method, sigma: float) -> list[Image]:
        """Return the stored reconstructions of a finished cell."""
        with np.load(self.answers / f"{_key(data, method, sigma)}.npz") as arrays:
            return list(arrays.values())

    def add(self, data: Data, method: Method, sigma: float, ready: Ready) -> Cell:
        """Compute a cell and store it."""
        images, seconds = [], []
        for number in range(len(data.held_out)):
            y = noisy(data, sigma, number)
            start = time.perf_counter()
            x = ready.answer(y)
            seconds.append(time.perf_counter() - start)
            images.append(np.clip(x, 0, 1))
        pairs = list(zip(images, data.held_out, strict=True))
        cell = Cell(
            dataset=data.name,
            method=method.name,
            sigma=sigma,
            psnr=statistics.fmean(psnr(x, clean) for x, clean in pairs),
            ssim=statistics.fmean(ssim(x, clean) for x, clean in pairs),
            seconds=statistics.fmean(seconds),
            images=len(images),
            training=method.training(data),
            strength=ready.strength,
        )
        key = _key(data, method, sigma)
        np.savez(self.answers / f"{key}.npz", *images[:SHOWN])
        self.cells[key] = cell
        written = {key: asdict(cell) for key, cell in self.cells.items()}
        scratch = self.path.with_suffix(".new")
        scratch.write_text(json.dumps(written, indent=1))
        scratch.replace(self.path)
        return cell


def _key(data: Data, method: Method, sigma: float) -> str:
    """Return the digest of everything that a cell depends on."""
    return digest(data.training, *data.held_out, data.name, method.name, method.settings, sigma)
