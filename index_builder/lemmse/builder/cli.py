"""The commands `lemmse build`, `lemmse calibrate` and `lemmse inspect`."""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lemmse.builder.amounts import parse_bytes
from lemmse.builder.calibrate import calibrate as measure
from lemmse.builder.cluster import on_local_workers, on_scheduler
from lemmse.builder.pictures import PICTURE_SIGMAS, measure_pictures
from lemmse.client.progress import report_progress
from lemmse.contract.errors import InvalidArgument, TooFewImages
from lemmse.index import build as build_index
from lemmse.index import open_index
from lemmse.index import update as update_index
from lemmse.index.building import AUGMENTS, EQUIVARIANCES, Run, run_serially
from lemmse.index.images.stack import BOUNDARIES
from lemmse.index.progress import Progress
from lemmse.index.reading.index import Index, open_unverified
from lemmse.index.reading.verify import reading, verify
from lemmse.index.storage.calibration_record import Calibration
from lemmse.index.storage.folder import about_index
from lemmse.index.storage.picture_record import Pictures

__all__ = ["build", "calibrate", "inspect"]

# Zarr writes several files at once: the first that fails is told, and asyncio need not tell the others, nor
# Python of those that were not begun.
logging.getLogger("asyncio").addHandler(logging.NullHandler())
warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)

_ACCURACIES = (30.0, 40.0, 50.0, 60.0)
"""Agreements in dB that the table of a calibration shows."""


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
@click.option(
    "--equivariance",
    type=click.Choice(EQUIVARIANCES),
    default="none",
    show_default=True,
    help="With offset, patches are compared and averaged without their mean, for physics identity and blur.",
)
@click.option(
    "--augment",
    type=click.Choice(AUGMENTS),
    default="none",
    show_default=True,
    help="With dihedral, the rotations by 90 degrees and mirror images of all training images are added.",
)
@click.option("--limit", type=int, help="Use only the first LIMIT images.")
@click.option("--seed", default=0, show_default=True, help="Seed of the clustering and of samples.")
@click.option(
    "--memory",
    callback=parse_bytes,
    default="4GB",
    show_default=True,
    help="What a process of the build may hold, 1GB at least; calibrating holds all keys.",
)
@click.option("--workers", type=int, help="Build in so many processes of this machine, each within --memory.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Build on the workers of a Dask cluster, which all see the folder around --out under one path.",
)
@click.option(
    "--update",
    is_flag=True,
    help="Add the images to the index at --out, as a new version of it, built as it was.",
)
@click.option(
    "--calibrate/--no-calibrate",
    "calibrated",
    default=True,
    show_default=True,
    help="Measure what hybrid gives for its work and which pictures are best, as lemmse calibrate does.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Describe the index in JSON, and tell on stderr how far the build is.",
)
def build(
    sources: tuple[str, ...],
    out: Path,
    workers: int | None,
    scheduler: str | None,
    update: bool,
    calibrated: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build an index from training images.

    SOURCE is a folder of images or one image; a .npy or .npz file of shape (N, H, W[, C]), uint8, uint16 or
    float in [0, 1]; an idx-ubyte[.gz] file (MNIST, FashionMNIST); CIFAR-10 batches; a Zarr array; or
    sample:photos, tiles of the photographs that scikit-image ships.

    A build that was ended goes on when it is started again with the same arguments.
    """
    with report_progress(as_json=as_json) as progress:
        with _runner(workers, scheduler) as run:
            if update:
                update_index(sources, out, progress=progress, run=run, **_of_updates(options))
            else:
                build_index(sources, out, progress=progress, run=run, **options)
        if calibrated:
            index = open_unverified(out)  # as it was just written
            try:
                with suppress(TooFewImages):
                    _calibrate(index, index.manifest.seed, progress)
            except BaseException:
                click.echo(f"{out} is built, but not calibrated: run lemmse calibrate {out}", err=True)
                raise
    _describe(open_unverified(out), as_json)


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
    help="Print the curves in JSON, a line for each index, and tell on stderr how far they are.",
)
def calibrate(indexes: Sequence[Path], seed: int, as_json: bool) -> None:
    """Measure what mode hybrid gives for its work and which pictures are best, and store it in the index.

    Some training images are taken out of the index for the measurement, those of one file of up to 64
    together. On patches of these hybrid is compared with the sum over all keys, at noise levels from 0.001 to
    1; and they are reconstructed in several ways, at noise levels from 0.02 to 0.8, for --quality best.
    Several indexes of the same training images are compared with each other.
    """
    opened = [open_index(folder) for folder in indexes]
    for index in opened:
        _require_writable(index)
    measured: dict[str, Pictures] = {}
    for index in opened:
        with report_progress(as_json=as_json) as progress:
            calibration, pictures = _calibrate(index, seed, progress)
        if pictures is not None:
            measured[index.name] = pictures
        if as_json:
            content = {"index": index.name} | asdict(calibration)
            content["pictures"] = None if pictures is None else asdict(pictures)
            click.echo(json.dumps(content))
            continue
        Console().print(_work_table(index.name, calibration))
        if pictures is not None:
            Console().print(_picture_table(index.name, pictures))
    if len(measured) > 1 and len({index.manifest.digest for index in opened}) == 1 and not as_json:
        Console().print(_comparison(measured))


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.option(
    "--verify",
    "verified",
    is_flag=True,
    help="Read all of it: compare every file with its SHA-256, decode every chunk, open the FAISS indexes.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Describe the index in JSON, and tell on stderr how far --verify is.",
)
def inspect(index: Path, verified: bool, as_json: bool) -> None:
    """Say what an index holds.

    Its manifest is compared with its checksum, and that every file is there, with its length.
    """
    opened = open_unverified(index)
    if verified:
        with report_progress(as_json=as_json, unit="bytes") as progress:
            verify(opened, progress)
    _describe(opened, as_json, verified=verified)


def _runner(workers: int | None, scheduler: str | None) -> AbstractContextManager[Run]:
    """Who does the parts of a build."""
    if workers is not None and scheduler is not None:
        raise InvalidArgument.of("workers", "expected none beside --scheduler, whose workers they are")
    if workers is not None:
        return on_local_workers(workers)
    return nullcontext(run_serially) if scheduler is None else on_scheduler(scheduler)


def _of_updates(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that an update has; the others are as the index was built, and may not be given."""
    context = click.get_current_context()
    for name in options.keys() - {"memory"}:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InvalidArgument.of(
                name.replace("_", "-"), "expected none with --update, which builds as the index was built"
            )
    return {"memory": options["memory"]}


def _require_writable(index: Index) -> None:
    """Refuse an index that could not take the result, before it is measured."""
    try:
        with TemporaryFile(dir=index.folder):
            pass
    except OSError as error:
        raise InvalidArgument.of(
            "INDEX", f"expected an index to write to, got {index.folder}: {error.strerror}"
        ) from error


def _calibrate(index: Index, seed: int, progress: Progress) -> tuple[Calibration, Pictures | None]:
    """Calibrate an index and write the result into its manifest."""
    calibration = measure(index, seed=seed, progress=progress)
    manifest, pictures = index.manifest, None
    if index.problem.denoises:
        pictures = measure_pictures(index, calibration, seed=seed, progress=progress)
    replace(manifest, calibration=calibration, pictures=pictures).write(index.folder)
    return calibration, pictures


def _work_table(name: str, calibration: Calibration) -> Table:
    """What hybrid costs."""
    table = Table(
        "sigma",
        *(f"{accuracy:g} dB" for accuracy in _ACCURACIES),
        title=f"{escape(name)}: time of hybrid relative to exact, for an agreement of",
    )
    for sigma in calibration.sigmas:
        plans = ((accuracy, calibration.plan(sigma, accuracy)) for accuracy in _ACCURACIES)
        reached = (f"{plan.cost:.2g}" if plan.accuracy_db >= asked else "-" for asked, plan in plans)
        table.add_row(f"{sigma:g}", *reached)
    return table


def _comparison(measured: Mapping[str, Pictures]) -> Table:
    """Which index is best at which σ."""
    table = Table("sigma", *map(escape, measured), title="PSNR of the best pictures of each index, in dB")
    for sigma, *row in zip(PICTURE_SIGMAS, *(one.best_db for one in measured.values()), strict=True):
        cells = (f"[bold]{db:.2f}[/bold]" if db == max(row) else f"{db:.2f}" for db in row)
        table.add_row(f"{sigma:g}", *cells)
    return table


def _picture_table(name: str, pictures: Pictures) -> Table:
    """What `--quality best` takes, and what it gives."""
    table = Table(
        "sigma",
        "aggregate",
        "bandwidth",
        "gaussian share",
        *("best", "paper", "noisy"),
        title=f"{escape(name)}: PSNR on held-out images, in dB",
    )
    columns = (pictures.best_db, pictures.paper_db, pictures.noisy_db)
    for sigma, way, *reached in zip(pictures.sigmas, pictures.refinements, *columns, strict=True):
        table.add_row(
            f"{sigma:g}",
            way.aggregate,
            f"{way.bandwidth:g}",
            f"{way.gaussian_share:g}",
            *(f"{db:.2f}" for db in reached),
        )
    return table


def _describe(index: Index, as_json: bool, **further: bool) -> None:
    manifest = index.manifest
    content = {"name": index.name, "version": index.version} | asdict(manifest)
    with about_index(index.name, index.version), reading("arrays.zarr/images/sizes"):
        content["image_height"], content["image_width"] = index.image_size
    content["files"] = len(manifest.files)
    content["bytes"] = sum(file.bytes for file in manifest.files.values())
    content["bytes_per_key"] = round(content["bytes"] / manifest.keys, 1)
    content |= further
    if as_json:
        click.echo(json.dumps(content))
        return
    content["bytes"] = decimal(content["bytes"])
    content["calibration"] = "none" if manifest.calibration is None else _reach(manifest.calibration)
    content["pictures"] = "none" if manifest.pictures is None else _gain(manifest.pictures)
    content["sources"] = ", ".join(manifest.sources)
    table = Table(show_header=False, box=None)
    for name, value in content.items():
        table.add_row(name.replace("_", " "), Text(_told(value)))  # a name may look like markup
    Console().print(table)


def _reach(calibration: Calibration) -> str:
    """The agreement that hybrid reaches, over all noise levels."""
    best = [max(row) for row in calibration.accuracy_db]
    return f"hybrid agrees with exact to {min(best):.0f} dB and more"


def _gain(pictures: Pictures) -> str:
    """What the best pictures have over those of the paper's formula."""
    gains = [best - paper for best, paper in zip(pictures.best_db, pictures.paper_db, strict=True)]
    return f"quality best gains {min(gains):.1f} to {max(gains):.1f} dB on quality paper"


def _told(value: Any) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
