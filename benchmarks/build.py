"""What a build takes: time, memory and disk, for more and more images.

    python -m benchmarks.build --cache FOLDER [--source SOURCE] [--images N…] [--patch-size P] [--memory N]

Each build runs in a process of its own, whose peak memory is measured; the index is removed afterwards.
Time is also given as a multiple of one pass that cuts all patches and discards them, which every build
makes. The last column is the exponent of the growth in time since the line before.
"""

import argparse
import math
import multiprocessing
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from benchmarks.memory import peak
from lemmse.index import Index, build, open_index
from lemmse.index.building import MEMORY

FASHION = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"
BLOCK = 1 << 18
"""Number of patches to cut at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """Measurements of one build."""

    images: int
    keys: int
    distinct: int
    shards: int
    seconds: float
    cutting: float
    """Time of one pass of cutting all patches, in seconds."""
    peak: int
    """Peak memory, in bytes."""
    index: int
    """Size of the index, in bytes."""


def measured(source: str, out: Path, count: int, patch_size: int, memory: int) -> Row:
    """Build an index in this process and return its measurements."""
    start = time.perf_counter()
    build([source], out, patch_size=patch_size, limit=count, memory=memory)
    seconds = time.perf_counter() - start
    held = peak()
    index = open_index(out)
    manifest = index.manifest
    return Row(
        images=manifest.images,
        keys=manifest.keys,
        distinct=manifest.distinct,
        shards=manifest.shards,
        seconds=seconds,
        cutting=cut_all(index),
        peak=held,
        index=sum(entry.bytes for entry in manifest.files.values()),
    )


def cut_all(index: Index) -> float:
    """Return the seconds it takes to cut all training patches of an index."""
    corpus = index.corpus(np.arange(index.manifest.images), BLOCK)
    start = time.perf_counter()
    for number in range(len(corpus.blocks) - 1):
        patches = corpus.block(number)
        patches.keys(np.arange(len(patches)))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder for the indexes, while they are there"
    )
    parser.add_argument("--source", default=FASHION, help="(default %(default)s)")
    parser.add_argument(
        "--images", type=int, nargs="+", default=[2000, 10_000, 60_000], help="(default %(default)s)"
    )
    parser.add_argument("--patch-size", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--memory", type=int, default=MEMORY, help="bytes (default %(default)s)")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    table = Table(
        *("images", "keys", "distinct", "shards", "seconds", "of cutting", "peak memory"),
        *("index", "of an image", "exponent"),
        title=f"{arguments.source}, p = {arguments.patch_size}, memory {decimal(arguments.memory)}",
    )
    before: Row | None = None
    for count in sorted(arguments.images):
        out = arguments.cache / f"build-{count}"
        shutil.rmtree(out, ignore_errors=True)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            job = (arguments.source, out, count, arguments.patch_size, arguments.memory)
            row = pool.apply(measured, job)
        shutil.rmtree(out)
        exponent = "" if before is None else f"{growth(before, row):.2f}"
        table.add_row(
            *(f"{number:,}" for number in (row.images, row.keys, row.distinct, row.shards)),
            f"{row.seconds:.1f}",
            f"{row.seconds / row.cutting:.1f}×",
            *(decimal(size) for size in (row.peak, row.index, row.index // row.images)),
            exponent,
        )
        before = row
        Console(width=140).print(table)


def growth(a: Row, b: Row) -> float:
    """Return the exponent with which time grows between two builds."""
    return math.log(b.seconds / a.seconds) / math.log(b.images / a.images)


if __name__ == "__main__":
    main()
