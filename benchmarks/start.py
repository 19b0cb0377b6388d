"""What the start of a server takes: time and memory, from the checksums to the first answer.

    python -m benchmarks.start INDEX…

Each index is opened in a process of its own. `mapped` is memory in files, which the kernel may drop and read
again; the rest of the resident memory is the process's own. Files that are not in the page cache take as long
as the disk does.
"""

import argparse
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from benchmarks.memory import resident


@dataclass(frozen=True, slots=True)
class Start:
    """Measurements of one start."""

    keys: int
    distinct: int
    bytes: int
    verifying: float
    loading: float
    answering: float
    again: float
    own: int
    mapped: int


def measured(path: Path) -> Start:
    """Open an index in this process as a server does, and reconstruct an image twice."""
    from lemmse.estimator import Reconstructor
    from lemmse.index import open_index
    from lemmse.index.sources import intensities

    times = [time.perf_counter()]

    def passed() -> None:
        times.append(time.perf_counter())

    index = open_index(path)
    passed()
    lemmse = Reconstructor(index, device="cpu")
    lemmse.prepare()
    passed()
    clean = intensities(index.image(0))
    y = clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape)
    for _ in range(2):
        lemmse.reconstruct(y, sigma=0.1, mode="hybrid")
        passed()
    own, mapped = resident("RssAnon"), resident("RssFile")
    manifest = index.manifest
    size = sum(file.bytes for file in manifest.files.values())
    verifying, loading, answering, again = np.diff(times).tolist()
    return Start(manifest.keys, manifest.distinct, size, verifying, loading, answering, again, own, mapped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("indexes", metavar="INDEX", nargs="+", type=Path)
    table = Table(
        *("index", "patches", "distinct keys", "bytes", "of a key", "checksums, s", "ready, s"),
        *("first image, s", "second, s", "own memory", "mapped"),
    )
    for path in parser.parse_args().indexes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            start = pool.apply(measured, (path,))
        table.add_row(
            path.name,
            f"{start.keys:,}",
            f"{start.distinct:,}",
            decimal(start.bytes),
            f"{start.bytes / start.distinct:.0f}",
            *(f"{s:.2f}" for s in (start.verifying, start.loading, start.answering, start.again)),
            *(decimal(size) for size in (start.own, start.mapped)),
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
