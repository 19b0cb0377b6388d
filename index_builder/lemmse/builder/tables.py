"""The output of the commands about an index: its description, and tables of its calibration."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lemmse.contract.lines import printable
from lemmse.index import Index
from lemmse.index.storage import Calibration, Pictures
from lemmse.index.storage.folder import about_index

__all__ = ["comparison_table", "cost_table", "describe", "list_images", "picture_table"]

_ACCURACIES = (30.0, 40.0, 50.0, 60.0)
"""Agreements with mode exact in the table of costs, PSNR in dB."""


def cost_table(name: str, calibration: Calibration) -> Table:
    """Return a table of the cost of mode hybrid for several agreements, by σ."""
    table = Table(
        "sigma",
        *(f"{accuracy:g} dB" for accuracy in _ACCURACIES),
        title=f"{escape(printable(name))}: time of hybrid relative to exact, for an agreement of",
    )
    for sigma in calibration.sigmas:
        points = ((accuracy, calibration.plan(sigma, accuracy)) for accuracy in _ACCURACIES)
        costs = (f"{point.cost:.2g}" if point.accuracy_db >= wanted else "-" for wanted, point in points)
        table.add_row(f"{sigma:g}", *costs)
    return table


def comparison_table(measured: Mapping[str, Pictures]) -> Table:
    """Return a table of the PSNR of quality "best" for several indexes, by σ."""
    table = Table(
        "sigma",
        *(escape(printable(name)) for name in measured),
        title="PSNR of the best pictures of each index, in dB",
    )
    sigmas = next(iter(measured.values())).sigmas  # of all indexes
    for sigma, *row in zip(sigmas, *(one.best_db for one in measured.values()), strict=True):
        cells = (f"[bold]{db:.2f}[/bold]" if db == max(row) else f"{db:.2f}" for db in row)
        table.add_row(f"{sigma:g}", *cells)
    return table


def picture_table(name: str, pictures: Pictures) -> Table:
    """Return a table of the refinements of `--quality best` and their PSNR, by σ."""
    table = Table(
        "sigma",
        "aggregate",
        "bandwidth",
        "gaussian share",
        *("best", "paper", "noisy"),
        title=f"{escape(printable(name))}: PSNR on held-out images, in dB",
    )
    columns = (pictures.best_db, pictures.paper_db, pictures.noisy_db)
    for sigma, refinement, *columns_db in zip(pictures.sigmas, pictures.refinements, *columns, strict=True):
        table.add_row(
            f"{sigma:g}",
            refinement.aggregate,
            f"{refinement.bandwidth:g}",
            f"{refinement.gaussian_share:g}",
            *(f"{db:.2f}" for db in columns_db),
        )
    return table


def describe(index: Index, as_json: bool, **further: bool) -> None:
    """Print the manifest of an index and totals, as a table or as JSON."""
    manifest = index.manifest
    content = {"name": index.name, "version": index.version} | asdict(manifest)
    with about_index(index.name, index.version):
        content["image_height"], content["image_width"] = index.image_size
    content["files"] = len(manifest.files)
    content["bytes"] = sum(file.bytes for file in manifest.files.values())
    content["bytes_per_key"] = round(content["bytes"] / manifest.keys, 1)
    content |= further
    if as_json:
        click.echo(json.dumps(content))
        return
    height, width = content.pop("image_height"), content.pop("image_width")
    content["image_size"] = f"{height}x{width}" if height else "various"
    content["bytes"] = decimal(content["bytes"])
    content["calibration"] = "none" if manifest.calibration is None else _reach(manifest.calibration)
    content["pictures"] = "none" if manifest.pictures is None else _gain(manifest.pictures)
    content["sources"] = ", ".join(manifest.sources)
    content["noise"] = "white" if manifest.noise is None else f"correlated, {manifest.noise}"
    if manifest.removed:
        content["removed"] = f"{manifest.removed:,} (cells, PCA, Gaussians and calibration hold a trace)"
    table = Table(show_header=False, box=None)
    for name, value in content.items():
        table.add_row(name.replace("_", " "), Text(printable(_readable(value))))  # names may contain markup
    Console().print(table)


def list_images(index: Index, as_json: bool) -> None:
    """Print number, source, size and number of patches of each image, as a table or in lines of JSON."""
    with about_index(index.name, index.version):
        columns = zip(index.labels, index.sizes.tolist(), index.patches_of_images.tolist(), strict=True)
        rows = [
            {"image": number, "source": source, "height": height, "width": width, "keys": keys}
            for number, (source, (height, width), keys) in enumerate(columns)
        ]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(Text(printable(str(value))) for value in row.values()))
    Console().print(table)


def _reach(calibration: Calibration) -> str:
    """Return a description of the agreement that mode hybrid reaches at all noise levels."""
    best = [max(row) for row in calibration.accuracy_db]
    return f"hybrid agrees with exact to {min(best):.0f} dB and more"


def _gain(pictures: Pictures) -> str:
    """Return a description of the gain in PSNR of quality "best" over the paper's formula."""
    gains = [best - paper for best, paper in zip(pictures.best_db, pictures.paper_db, strict=True)]
    return f"quality best gains {min(gains):.1f} to {max(gains):.1f} dB on quality paper"


def _readable(value: Any) -> str:
    """Return a value formatted for display."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
