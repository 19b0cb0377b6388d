"""Picture quality: lemmse in several settings beside the classical denoisers, with the same noise for all.

    python -m benchmarks.quality --cache FOLDER --out docs/quality [--colour FILE.npz] [--images N]
        [--limit N] [--datasets NAME…] [--methods NAME…] [--sigmas S…]

Held-out images of each data set are reconstructed by each method at each σ. Mean PSNR and SSIM of the
results, clipped to [0, 1], and the seconds per image are stored in FOLDER/results.json. Results that exist
for the same data and settings are not computed again, so that an interrupted run can be continued. The tables
are printed and written to OUT/tables.md, the figures beside them.
"""

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.quality import report
from benchmarks.quality.cells import Results
from benchmarks.quality.classical import CLASSICAL
from benchmarks.quality.data import DATASETS
from benchmarks.quality.mixture import GMM
from benchmarks.quality.settings import OURS
from lemmse.calibration import PICTURE_SIGMAS
from lemmse.contract.errors import LemmseError

METHODS = {method.name: method for method in (*CLASSICAL, *GMM, *OURS)}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for results, mixtures and indexes")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures and tables.md")
    parser.add_argument("--images", type=int, default=64, help="held-out images (default %(default)s)")
    parser.add_argument("--limit", type=int, default=10_000, help="training images (default %(default)s)")
    parser.add_argument(
        "--sigmas", type=float, nargs="+", default=PICTURE_SIGMAS, help="(default %(default)s)"
    )
    for name, known in (("datasets", DATASETS), ("methods", METHODS)):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=known,
            default=list(known),
            metavar="NAME",
            help=f"of {', '.join(known)} (default: all)",
        )
    parser.add_argument(
        "--fashion",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of FashionMNIST's idx files (default %(default)s)",
    )
    parser.add_argument(
        "--wallpapers",
        type=Path,
        default=Path("/usr/share"),
        help="folder with the photographs of Debian's packages of wallpapers (default %(default)s)",
    )
    parser.add_argument(
        "--colour", type=Path, help=".npz file with uint8 images (N, H, W, 3) in train and test"
    )
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    console, progress = Console(width=140), Console(stderr=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.cache)
    methods = [METHODS[name] for name in arguments.methods]
    sigmas: list[float] = sorted(arguments.sigmas)
    sections = []
    for name in arguments.datasets:
        data = DATASETS[name](arguments)
        for method in methods:
            wanted = [sigma for sigma in sigmas if not results.find(data, method, sigma)]
            if wanted:
                progress.log(f"{name}: {method.name}")
                with method.open(data, arguments.cache) as opened:
                    for sigma in wanted:
                        cell = results.add(data, method, sigma, opened(sigma))
                        progress.log(f"σ = {sigma:g}: {cell.psnr:.2f} dB, {cell.seconds:.2g} s an image")
        found = [results.find(data, method, sigma) for method in methods for sigma in sigmas]
        cells = [cell for cell in found if cell]
        report.print_table(console, data, cells, sigmas)
        report.draw(arguments.out / f"{name}.png", data, methods, results, sigmas)
        sections.append(report.tables(data, cells, sigmas))
    text = "\n".join(sections)
    (arguments.out / "tables.md").write_text(f"# Tables of `python -m benchmarks.quality`\n\n{text}")


def main() -> None:
    try:
        run(parsed())
    except LemmseError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
