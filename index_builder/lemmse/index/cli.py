"""The commands `lemmse build` and `lemmse inspect`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lemmse.index import BOUNDARIES, open_index
from lemmse.index import build as build_index
from lemmse.index.reader import Index

__all__ = ["build", "inspect"]


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder to make; its name names the index."
)
@click.option("--patch-size", default=5, show_default=True, help="Side of the patches, in pixels.")
@click.option(
    "--physics",
    metavar="SPEC",
    default="identity",
    show_default=True,
    help="What makes a measurement from a clean image: identity, blur:gaussian:STD, blur:disk:RADIUS, "
    "blur:FILE, inpaint:center:SIDE, inpaint:random:PERCENT[:SEED] or inpaint:FILE. Lengths are in pixels; "
    "FILE is a .npy or .png, of a kernel or of a mask that is 0 where pixels are missing.",
)
@click.option(
    "--pre-inverse",
    metavar="SPEC",
    default="identity",
    show_default=True,
    help="What is applied to a measurement before patches are compared: identity; for inpaint mask or "
    "epsilon:EPS; for blur wiener:LAMBDA or inverse.",
)
@click.option(
    "--boundary",
    type=click.Choice(BOUNDARIES),
    default="circular",
    show_default=True,
    help="Outside an image: it repeats, or is mirrored; valid takes only patches inside training images.",
)
@click.option("--limit", type=int, help="Use only the first LIMIT images.")
@click.option("--seed", default=0, show_default=True, help="Seed of the clustering.")
@click.option("--json", "as_json", is_flag=True, help="Describe the index in JSON.")
def build(sources: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Build an index from training images.

    SOURCE is a folder of images or one image; a .npy or .npz file of shape (N, H, W[, C]), uint8, uint16 or
    float in [0, 1]; an idx-ubyte[.gz] file (MNIST, FashionMNIST); CIFAR-10 batches; a Zarr array; or
    sample:photos, tiles of the photographs that scikit-image ships.
    """
    with _progress_bar() as progress:
        folder = build_index(sources, out, progress=progress, **options)
    _describe(open_index(folder), as_json)


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Describe the index in JSON.")
def inspect(index: Path, as_json: bool) -> None:
    """Verify an index and say what it holds."""
    _describe(open_index(index), as_json)


@contextmanager
def _progress_bar() -> Iterator[Any]:
    """A bar for each stage of a build, on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        stages: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done)

        yield progress


def _describe(index: Index, as_json: bool) -> None:
    manifest = index.manifest
    content = {"name": index.name, "version": index.version} | asdict(manifest)
    content["image_height"], content["image_width"] = index.image_size
    content["files"] = len(manifest.files)
    content["bytes"] = sum(file.bytes for file in manifest.files.values())
    if as_json:
        click.echo(json.dumps(content))
        return
    content["bytes"] = decimal(content["bytes"])
    content["sources"] = ", ".join(manifest.sources)
    table = Table(show_header=False, box=None)
    for name, value in content.items():
        table.add_row(name.replace("_", " "), Text(_told(value)))  # a name may look like markup
    Console().print(table)


def _told(value: Any) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
