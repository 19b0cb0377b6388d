"""What several programs read: an index, given or built for the run, and images that are not in it."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.quality.data import Image
from lemmse.calibration import calibrate
from lemmse.index import build, open_index
from lemmse.index.sources import intensities, iterate, open_source

__all__ = ["add_index_options", "index_folder", "read_images"]


def add_index_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `index_folder` reads."""
    index = parser.add_mutually_exclusive_group(required=True)
    index.add_argument("--source", help="training images, as for lemmse build; the index is temporary")
    index.add_argument("--index", type=Path, help="an index that exists, instead; it is only read")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT images of the source")
    parser.add_argument("--patch-size", type=int, default=5, help="(default %(default)s)")


@contextmanager
def index_folder(arguments: argparse.Namespace) -> Iterator[Path]:
    """Yield the folder of the given index, or of one that is built and calibrated for the run."""
    if arguments.index:
        yield arguments.index
        return
    with TemporaryDirectory() as folder:
        path = build(
            [arguments.source],
            Path(folder) / "index",
            limit=arguments.limit,
            patch_size=arguments.patch_size,
        )
        index = open_index(path)
        replace(index.manifest, calibration=calibrate(index)).write(index.folder)
        yield path


def read_images(source: str, count: int) -> list[Image]:
    """Return the first images of a source, fewer than `count` if there are no more."""
    opened = iterate(open_source(source))
    return [intensities(image).astype(np.float64) for image, _ in islice(opened, count)]
