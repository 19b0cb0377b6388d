"""Output of the benchmark: tables in Markdown and for the terminal, and a panel of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.quality.cells import SHOWN, Cell, Results
from benchmarks.quality.data import Data, Image
from benchmarks.quality.methods import Method
from benchmarks.quality.scores import psnr

PICTURED = (0.1, 0.4)
"""σ of the panel."""


def tables(data: Data, cells: Sequence[Cell], sigmas: Sequence[float]) -> str:
    """Return the section of a data set, in Markdown."""
    count, height, width, channels = data.training.shape
    parts = [
        f"## {data.name}",
        f"{count} training images of {height}×{width}×{channels}; {len(data.held_out)} held-out images "
        f"({data.split}). The best of each column is bold.",
    ]
    for title, name, digits in (
        ("PSNR in dB", "psnr", 2),
        ("SSIM", "ssim", 3),
        ("Seconds for an image", "seconds", 3),
    ):
        best = {} if name == "seconds" else bests(cells, name)
        rows = lines(cells, sigmas, name, digits, best)
        parts.append(f"{title}:\n\n{markdown(['method', 'training images', *header(sigmas)], rows)}")
    tuned = [cell for cell in cells if cell.strength is not None]
    if tuned:
        rows = [[row[0], *row[2:]] for row in lines(tuned, sigmas, "strength", 2, {})]
        strengths = markdown(["method", *header(sigmas)], rows)
        parts.append(f"Strengths in units of σ, chosen on training images:\n\n{strengths}")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def header(sigmas: Sequence[float]) -> list[str]:
    return [f"σ = {sigma:g}" for sigma in sigmas]


def bests(cells: Sequence[Cell], name: str) -> dict[float, float]:
    best: dict[float, float] = {}
    for cell in cells:
        best[cell.sigma] = max(best.get(cell.sigma, -np.inf), getattr(cell, name))
    return best


def lines(
    cells: Sequence[Cell], sigmas: Sequence[float], name: str, digits: int, best: dict[float, float]
) -> list[list[str]]:
    """Return a line for each method, with the number of its training images."""
    found = {(cell.method, cell.sigma): cell for cell in cells}
    rows = []
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [found.get((method, sigma)) for sigma in sigmas]
        values = []
        for cell in own:
            text = "" if cell is None else f"{getattr(cell, name):.{digits}f}"
            best_text = f"{best[cell.sigma]:.{digits}f}" if cell and cell.sigma in best else None
            values.append(f"**{text}**" if text == best_text else text)
        training = next(cell.training for cell in own if cell)
        rows.append([method, str(training or "–"), *values])
    return rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def print_table(console: Console, data: Data, cells: Sequence[Cell], sigmas: Sequence[float]) -> None:
    table = Table("method", *header(sigmas), title=f"{data.name}: PSNR in dB / SSIM / seconds for an image")
    found = {(cell.method, cell.sigma): cell for cell in cells}
    for method in dict.fromkeys(cell.method for cell in cells):
        own = [found.get((method, sigma)) for sigma in sigmas]
        table.add_row(
            method,
            *(f"{cell.psnr:.2f} / {cell.ssim:.3f} / {cell.seconds:.2g}" if cell else "" for cell in own),
        )
    console.print(table)


def draw(
    path: Path, data: Data, methods: Sequence[Method], results: Results, sigmas: Sequence[float]
) -> None:
    """Draw the first images, clean and as each method reconstructs them; an image has one line for each σ."""
    shown = [sigma for sigma in sigmas if sigma in PICTURED]
    lines = [(number, sigma) for number in range(min(SHOWN, len(data.held_out))) for sigma in shown]
    if not lines:
        return
    figure = Figure(figsize=(1.75 * (1 + len(methods)), 2.05 * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), 1 + len(methods), squeeze=False)
    for line, (number, sigma) in zip(axes, lines, strict=True):
        clean = data.held_out[number]
        show(line[0], clean, f"clean (σ = {sigma:g})")
        for ax, method in zip(line[1:], methods, strict=True):
            ax.set_axis_off()
            if results.find(data, method, sigma):
                image = results.pictures(data, method, sigma)[number]
                show(ax, image, f"{method.name}\n{psnr(image, clean):.1f} dB")
    figure.savefig(path, dpi=90)


def show(ax: Axes, image: Image, title: str) -> None:
    grey = image.shape[2] == 1
    ax.imshow(image[..., 0] if grey else image, cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=8)
    ax.set_axis_off()
