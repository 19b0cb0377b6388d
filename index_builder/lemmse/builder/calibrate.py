"""The command `lemmse calibrate`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile

import click
from rich.console import Console

from lemmse.builder.tables import comparison_table, cost_table, picture_table
from lemmse.calibration import calibrate_index
from lemmse.client.progress import report_progress
from lemmse.contract.errors import InvalidArgument
from lemmse.index import Index, open_index
from lemmse.index.storage import Pictures

__all__ = ["calibrate"]


@click.command()
@click.argument("indexes", metavar="INDEX...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the images, patches and noise.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the curves in JSON, a line for each index, and report progress on stderr in lines of JSON.",
)
def calibrate(indexes: Sequence[Path], seed: int, as_json: bool) -> None:
    """Measure mode hybrid and the best pictures on held-out images, and store the result in the index.

    Some training images are held out for the measurement; images of one file are held out together if there
    are at most 64. On their patches, mode hybrid is compared with the sum over all keys, at noise levels from
    0.001 to 1. For --quality best, the images are reconstructed in several ways, at noise levels from 0.02 to
    0.8. Several indexes of the same training images are compared with each other.
    """
    opened = [open_index(folder) for folder in indexes]
    for index in opened:
        _require_writable(index)
    measured: dict[str, Pictures] = {}
    for index in opened:
        with report_progress(as_json=as_json) as progress:
            calibration, pictures = calibrate_index(index, seed=seed, progress=progress)
        if pictures is not None:
            measured[index.name] = pictures
        if as_json:
            content = {"index": index.name} | asdict(calibration)
            content["pictures"] = None if pictures is None else asdict(pictures)
            click.echo(json.dumps(content))
            continue
        Console().print(cost_table(index.name, calibration))
        if pictures is not None:
            Console().print(picture_table(index.name, pictures))
    if len(measured) > 1 and len({index.manifest.digest for index in opened}) == 1 and not as_json:
        Console().print(comparison_table(measured))


def _require_writable(index: Index) -> None:
    """Raise InvalidArgument if the result cannot be written; call it before the measurement."""
    try:
        with TemporaryFile(dir=index.folder):
            pass
    except OSError as error:
        raise InvalidArgument.of(
            "INDEX", f"expected an index to write to, got {index.folder}: {error.strerror}"
        ) from error
