"""The command `lemmse demo`: all steps on a real photograph, using the commands and the client.

It builds an index of `sample:photos`, serves it on a free port, sends a noisy photograph that is not in the
index through the client, and writes a panel of pictures and a table.
"""

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lemmse.client import Result, connect
from lemmse.client.extras import required
from lemmse.client.serving import LEMMSE, serving
from lemmse.contract.errors import AlreadyExists

__all__ = ["demo"]

_PHOTOGRAPH = "chelsea"
_CENTRE = (75, 122)
"""Row and column of the photograph at which the crop is centred: between the cat's eyes."""
_SOURCE = "sample:photos"
_MODES = ("exact", "topk", "hybrid", "auto")


@dataclass(frozen=True, slots=True)
class _Run:
    """The answer of one mode."""

    mode: str
    """The requested mode."""
    result: Result
    """Its result."""
    seconds: float
    """Time from the request to the answer, in seconds, measured by the client."""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for demo.png and the index.",
)
@click.option(
    "--sigma",
    type=click.FloatRange(min=0, min_open=True),
    default=0.1,
    show_default=True,
    help="Noise standard deviation; intensities are in [0, 1].",
)
@click.option(
    "--size",
    type=click.IntRange(16, 144),
    default=112,
    show_default=True,
    help="Side of the part of the photograph that is reconstructed, in pixels.",
)
def demo(out: Path, sigma: float, size: int) -> None:
    """Reconstruct a noisy photograph that is not in the index.

    Builds an index of sample:photos in --out, or uses an existing one; serves it on a free port; and
    reconstructs through the client with modes exact, topk, hybrid and auto.
    """
    clean = _load_photograph(size)
    noisy = clean + np.float32(sigma) * np.random.default_rng(0).standard_normal(clean.shape, np.float32)
    out.mkdir(parents=True, exist_ok=True)
    index = _prepare_index(out / "index")
    with serving(index, out / "server.log") as address, connect(f"grpc://{address}") as lemmse:
        click.echo(f"server    {address}")
        progress = Console(stderr=True)
        runs = []
        for mode in _MODES:
            start = time.perf_counter()
            with progress.status(f"reconstructing, mode {mode}"):
                result = lemmse.reconstruct(noisy, sigma=sigma, mode=mode, maps=("variance", "ess"))
            runs.append(_Run(mode, result, time.perf_counter() - start))
    _print_table(clean, noisy, runs)
    _draw(out / "demo.png", clean, noisy, runs[0].result, sigma)
    click.echo(f"panel     {out / 'demo.png'}")
    click.echo(f"try more  lemmse explore --index {index}")


def _load_photograph(size: int) -> NDArray[np.float32]:
    """Return a square of the photograph, shape (size, size, 3), intensities in [0, 1]."""
    with required("the demo"):
        import matplotlib.figure  # noqa: F401  fail now if it is missing, not at the end
        import skimage.data  # noqa: F401

        from lemmse.index.sources import photograph
    image = photograph(_PHOTOGRAPH)
    row, column = (centre - size // 2 for centre in _CENTRE)
    return image[row : row + size, column : column + size].astype(np.float32) / np.float32(255)


def _prepare_index(folder: Path) -> Path:
    """Build the index unless it exists, and return its folder."""
    there = folder.exists()
    if not there:
        # Calibration takes longer than all other steps, and the defaults suffice for a demonstration.
        _lemmse("build", _SOURCE, "--out", str(folder), "--no-calibrate")
    manifest = json.loads(_lemmse("inspect", str(folder), "--json"))
    if manifest["sources"] != [_SOURCE]:
        raise AlreadyExists(
            f"out: expected an index of {_SOURCE} in {folder}, got another; choose another folder"
        )
    origin = "found there" if there else f"built from {_SOURCE}"
    click.echo(f"index     {folder}: {manifest['images']} images, {manifest['keys']:,} patches, {origin}")
    return folder


def _lemmse(*arguments: str) -> str:
    """Run the command `lemmse`, which inherits stderr, and return its stdout."""
    done = subprocess.run([*LEMMSE, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise click.exceptions.Exit(done.returncode)  # the command has reported the error
    return done.stdout


def _psnr(image: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the peak signal-to-noise ratio in dB, for a peak of 1."""
    from skimage.metrics import peak_signal_noise_ratio

    return float(peak_signal_noise_ratio(reference, image, data_range=1))  # type: ignore[no-untyped-call]


def _print_table(clean: NDArray[np.float32], noisy: NDArray[np.float32], runs: list[_Run]) -> None:
    table = Table("mode", "PSNR (dB)", "seconds", "agreement with exact (dB)")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("noisy input", f"{_psnr(noisy, clean):.2f}", "", "")
    exact = runs[0].result.image
    for run in runs:
        ran = run.result.diagnostics.mode
        identical = np.array_equal(run.result.image, exact)
        table.add_row(
            run.mode if run.mode == ran else f"{run.mode} → {ran}",
            f"{_psnr(run.result.image, clean):.2f}",
            f"{run.seconds:.1f}",
            "identical" if identical else f"{_psnr(run.result.image, exact):.1f}",
        )
    Console().print(table)


def _draw(
    path: Path, clean: NDArray[np.float32], noisy: NDArray[np.float32], result: Result, sigma: float
) -> None:
    """Write the panel: the images, and the maps of one result."""
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.figure import Figure

    figure = Figure(figsize=(19, 4.2), layout="constrained")
    axes = figure.subplots(1, 5)
    pictures = {
        "clean (not in the index)": clean,
        f"noisy, σ = {sigma:g}: {_psnr(noisy, clean):.2f} dB": noisy,
        f"reconstruction: {_psnr(result.image, clean):.2f} dB": result.image,
    }
    for ax, (title, picture) in zip(axes, pictures.items(), strict=False):
        ax.imshow(np.clip(picture, 0, 1), interpolation="nearest")
        ax.set_title(title)
    variance = np.asarray(result.variance).mean(axis=-1)
    maps = {
        # The variance of a few pixels is so large that the others would have no contrast.
        "posterior variance": (variance, Normalize(vmin=0, vmax=np.quantile(variance, 0.99))),
        "effective sample size": (np.asarray(result.ess), LogNorm(vmin=1)),
    }
    for ax, (title, (values, norm)) in zip(axes[len(pictures) :], maps.items(), strict=True):
        figure.colorbar(ax.imshow(values, norm=norm, interpolation="nearest"), ax=ax, shrink=0.8)
        ax.set_title(title)
    for ax in axes:
        ax.set_axis_off()
    figure.savefig(path, dpi=100)
