"""Seconds and memory of an image beyond memory: a server and the command, for squares of several sizes.

    python -m benchmarks.large --index DIR [--sizes N,N,…] [--sigma S] [--mode MODE] [--k N] [--nprobe N]
        [--suffix .npy|.tif|.zarr] [--keep DIR]

The image is made of the training images of the index, side by side in random order, with noise, as uint8. A
server of the index is started, and `lemmse reconstruct` reads and writes files of the suffix. Memory is the
largest resident size of a process, and the part of it that is no page of a file (`VmHWM` and `RssAnon` of
Linux); that of the server is what it has beyond what it had when it was ready.
"""

import argparse
import os
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.measures import print_rows
from benchmarks.memory import resident
from lemmse.client.serving import LEMMSE, serving
from lemmse.index import open_index
from lemmse.index.files import Layout, Metadata, Scale, create_output
from lemmse.index.sources import intensities


@dataclass(frozen=True, slots=True)
class Row:
    """One size."""

    side: int
    megapixels: float
    seconds: float
    megapixels_per_second: float
    client_mib: float
    """Largest resident size of the command."""
    client_anonymous_mib: float
    """Largest part of it that belongs to no file."""
    server_more_mib: float
    """Growth of the server's largest resident size."""


def make_image(path: Path, side: int, images: np.ndarray, sigma: float, seed: int) -> None:
    """Write a noisy image of tiles out of images, a row of tiles at a time."""
    rng = np.random.default_rng(seed)
    height, width = images.shape[1:3]
    layout = Layout("YX", (side, side))
    output = create_output(path, layout, Scale.of(np.dtype(np.uint8)), Metadata())
    for top in range(0, side, height):
        tiles = images[rng.integers(0, len(images), -(-side // width))]
        band = np.concatenate(list(tiles), axis=1)[: side - top, :side]
        noisy = band + sigma * rng.standard_normal(band.shape, np.float32)
        numbers = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
        output.put(0, numbers, slice(top, top + len(numbers)), slice(0, side))
    output.commit()


def mebibytes(name: str, pid: int) -> float:
    """Return a size in the status of a process; 0 if it has ended."""
    try:
        return resident(name, pid) / (1 << 20)
    except (OSError, KeyError):
        return 0.0


class Watch:
    """The largest memory of a process while it runs, sampled ten times a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self.anonymous, self.resident = pid, 0.0, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            self.anonymous = max(self.anonymous, mebibytes("RssAnon", self._pid))
            self.resident = max(self.resident, mebibytes("VmHWM", self._pid))

    def stop(self) -> None:
        """End the samples."""
        self._ended.set()
        self._thread.join()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def measure(side: int, arguments: argparse.Namespace, images: np.ndarray, folder: Path) -> Row:
    """Reconstruct an image of one size."""
    source, out = (folder / f"{name}{side}{arguments.suffix}" for name in ("noisy", "clean"))
    make_image(source, side, images, arguments.sigma, side)
    before = set(children(os.getpid()))
    with ExitStack() as stack:
        address = stack.enter_context(serving(arguments.index, folder / "server.log"))
        (server,) = set(children(os.getpid())) - before
        ready = mebibytes("VmHWM", server)
        words = ["reconstruct", str(source), "--out", str(out), "--server", address, "--overwrite", "--json"]
        words += ["--sigma", str(arguments.sigma), "--mode", arguments.mode]
        words += ["--k", str(arguments.k), "--nprobe", str(arguments.nprobe)] if arguments.k else []
        start = time.perf_counter()
        process = subprocess.Popen([*LEMMSE, *words], stdout=subprocess.DEVNULL)
        watch = Watch(process.pid)
        try:
            status = process.wait()
        finally:
            watch.stop()
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"lemmse reconstruct ended with {status}")
        more = mebibytes("VmHWM", server) - ready
    pixels = side * side / 1e6
    return Row(side, pixels, seconds, pixels / seconds, watch.resident, watch.anonymous, more)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--sizes", default="2100,4200")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--mode", default="hybrid")
    parser.add_argument("--k", type=int)
    parser.add_argument("--nprobe", type=int, default=1)
    parser.add_argument("--suffix", default=".npy")
    parser.add_argument("--keep", type=Path, help="Folder for the files; by default they are removed.")
    arguments = parser.parse_args()
    images = open_index(arguments.index).images()
    clean = intensities(images.pixels).reshape(len(images), *images[0].shape[:2]).astype(np.float32)
    with ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        rows = [measure(int(side), arguments, clean, folder) for side in arguments.sizes.split(",")]
    print_rows([asdict(row) for row in rows], f"mode {arguments.mode}, {arguments.suffix}")


if __name__ == "__main__":
    main()
