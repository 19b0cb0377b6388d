"""The paper's findings: networks of a p×p receptive field beside LE-MMSE, over a grid of problems.

    python -m benchmarks.paper train|table|report|all --out FOLDER [--data NAME|FILE.npz] [--limits K…]
        [--problems PHYSICS[,PRE-INVERSE]…] [--networks NAME…] [--patch-sizes P…] [--sigmas S…] [--images N]
        [--minutes M | --steps N] [--threads T]

`train` trains every network on every problem; `table` reconstructs the same measurements with the networks
and the formula; `report` writes OUT/report.md of all comparisons in OUT; `all` does these in turn.
Checkpoints, indexes, reconstructions and results are stored in OUT/cache, and those that exist for the same
settings are not computed again: an interrupted run can be continued, and one with other options adds to the
report.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from benchmarks.paper import formula, report
from benchmarks.paper.findings import HELD_OUT
from benchmarks.paper.networks import NETWORKS, PATCH_SIZES
from benchmarks.paper.table import Rows, compare
from benchmarks.paper.tasks import VERSION, Measurements, Problem, Task, first, inputs, load
from benchmarks.paper.training import Schedule, read, train
from benchmarks.quality.methods import digest
from lemmse.client import connect
from lemmse.client.serving import serving
from lemmse.contract.errors import LemmseError, NotFound

PROBLEMS = ("identity", "blur:gaussian:1.0", "blur:gaussian:1.0,wiener:0.05")
SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8)


def count(text: str) -> int:
    """Parse a count."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number


def noise(text: str) -> float:
    """Parse a σ within the range that the networks are trained for."""
    sigma = float(text)
    if not 0 < sigma <= 1:
        raise argparse.ArgumentTypeError(f"expected a noise above 0 and up to 1, got {text}")
    return sigma


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("train", "table", "report", "all"))
    parser.add_argument("--out", type=Path, required=True, help="folder for the report and all that is kept")
    parser.add_argument("--data", default="fashion", help="fashion, faces, or a .npz with train and test")
    parser.add_argument(
        "--fashion",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of FashionMNIST's idx files (default %(default)s)",
    )
    for name, kind, default, what in (
        ("limits", count, (1000,), "numbers of training images"),
        ("problems", str, PROBLEMS, "PHYSICS or PHYSICS,PRE-INVERSE"),
        ("sigmas", noise, SIGMAS, "noise standard deviations"),
    ):
        parser.add_argument(
            f"--{name}", type=kind, nargs="+", default=default, help=f"{what} (default %(default)s)"
        )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=tuple(NETWORKS))
    parser.add_argument("--patch-sizes", type=int, nargs="+", choices=PATCH_SIZES, default=(5,))
    parser.add_argument("--images", type=count, default=4, help="images of each kind (default %(default)s)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="of training for a network (default 1)")
    length.add_argument("--steps", type=int, help="of training for a network")
    parser.add_argument("--threads", type=count, help="of torch (default: as many as there are cores)")
    return parser.parse_args()


class Study:
    """Everything given on the command line."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.out: Path = arguments.out
        self.cache: Path = self.out / "cache"
        self.cache.mkdir(parents=True, exist_ok=True)
        self.sigmas: list[float] = sorted(arguments.sigmas)
        self.images: int = arguments.images
        self.networks: list[str] = list(arguments.networks)
        minutes = 1.0 if arguments.minutes is None and arguments.steps is None else arguments.minutes
        self.schedule = Schedule(steps=arguments.steps, minutes=minutes)
        self.console = Console(stderr=True)
        self.arguments = arguments

    @cached_property
    def tasks(self) -> list[Task]:
        """Return all tasks."""
        asked = self.arguments
        data = load(asked.data, max(asked.limits), self.images, asked.fashion)
        problems = [Problem.parse(text) for text in asked.problems]
        tasks = [
            Task(first(data, limit), problem, p)
            for limit, problem, p in itertools.product(asked.limits, problems, asked.patch_sizes)
        ]
        for task in tasks:
            task.check()
        return tasks

    def train(self) -> None:
        """Train every network on every task."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=self.console,
        ) as bars:
            for task, network in itertools.product(self.tasks, self.networks):
                bar = bars.add_task(f"{task}: {network}", total=1.0, loss=float("nan"))
                trained = train(
                    task, network, self.schedule, self.checkpoint(task, network), _shown(bars, bar)
                )
                drawn = self.checkpoint(task, network).with_suffix(".png")
                report.draw_losses(trained.losses, drawn, f"{task}: {network}")
                bars.update(bar, completed=1.0, loss=trained.losses[-1])

    def table(self) -> None:
        """Reconstruct the same measurements with the formula and with every network."""
        rows = Rows(self.cache)
        for task in self.tasks:
            networks = {
                network: read(task, network, self.schedule, self.checkpoint(task, network))
                for network in self.networks
            }
            images = inputs(task.data, self.images)
            measurements = [
                Measurements.of(task, kind, images[kind], sigma)
                for kind, sigma in itertools.product(images, self.sigmas)
            ]
            self.ask(task, measurements)
            if task.pooled:
                self.ask(task.pooled, measurements, masked=True)
            for measured in measurements:
                answers = formula.read(self.kept(measured))
                pooled = formula.read(self.kept(measured, masked=True)) if task.pooled else None
                for network, trained in networks.items():
                    asked = network, self.schedule.length
                    rows.add(compare(measured, answers, *asked, trained, pooled=pooled))
                    for early in trained.early if measured.kind == HELD_OUT else ():
                        rows.add(compare(measured, answers, *asked, early, early=True))
            rows.save()
        report.show(list(rows), Console(width=130))

    def ask(self, task: Task, measurements: Sequence[Measurements], *, masked: bool = False) -> None:
        """Reconstruct with the index of a task what is not stored yet."""
        missing = [measured for measured in measurements if not self.kept(measured, masked=masked).exists()]
        if not missing:
            return
        index = formula.index_of(task, self.sigmas, self.cache)
        with (
            serving(index, self.cache / "server.log") as address,
            connect(f"grpc://{address}") as client,
        ):
            for measured in missing:
                answers = formula.ask(client, measured, masked=masked)
                formula.save(answers, self.kept(measured, masked=masked))
                self.console.log(f"{measured.task}: {measured.kind} images, σ = {measured.sigma:g}")

    def report(self) -> None:
        """Write the report of all stored rows."""
        rows = list(Rows(self.cache))
        if not rows:
            raise NotFound(f"nothing was compared in {self.out} yet: run table first")
        report.write(rows, self.out)

    def checkpoint(self, task: Task, network: str) -> Path:
        """Return the file of a training's checkpoint."""
        return self.cache / f"{network}-{digest(VERSION, task.key, asdict(self.schedule))}.pt"

    def kept(self, measured: Measurements, *, masked: bool = False) -> Path:
        """Return the file of the formula's reconstructions."""
        return self.cache / f"{'pooled' if masked else 'answers'}-{measured.key()}.npz"


def _shown(bars: Progress, bar: TaskID) -> Callable[[float, float], None]:
    return lambda done, loss: bars.update(bar, completed=done, loss=loss)


def main() -> None:
    arguments = parsed()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        study = Study(arguments)
        for command in ("train", "table", "report"):
            if arguments.command in (command, "all"):
                getattr(study, command)()
    except LemmseError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
