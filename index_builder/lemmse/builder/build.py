"""The command `lemmse build`."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lemmse.builder.cluster import on_local_workers, on_scheduler
from lemmse.builder.sizes import parse_bytes
from lemmse.builder.tables import describe
from lemmse.builder.zarr_errors import silence_zarr
from lemmse.calibration import calibrate_index
from lemmse.client.exits import report
from lemmse.client.progress import report_progress
from lemmse.contract.errors import InvalidArgument, TooFewImages
from lemmse.index import Index
from lemmse.index import build as build_index
from lemmse.index import remove as remove_images
from lemmse.index import update as update_index
from lemmse.index.building import AUGMENTS, EQUIVARIANCES, Runner, run_serially
from lemmse.index.images import BOUNDARIES
from lemmse.index.reading import open_unverified

__all__ = ["build"]


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder to create; its name is the index's."
)
@click.option("--patch-size", default=5, show_default=True, help="Side of the patches, in pixels.")
@click.option(
    "--physics",
    metavar="SPEC",
    default="identity",
    show_default=True,
    help="Forward operator: identity, blur:gaussian:STD, blur:disk:RADIUS, "
    "blur:FILE, inpaint:center:SIDE, inpaint:random:PERCENT[:SEED] or inpaint:FILE. Lengths are in pixels; "
    "FILE is a .npy or .png of a kernel, or of a mask that is 0 where pixels are missing.",
)
@click.option(
    "--pre-inverse",
    metavar="SPEC",
    default="identity",
    show_default=True,
    help="Operator applied to measurements before patches are compared: identity; for inpaint mask or "
    "epsilon:EPS; for blur wiener:LAMBDA or inverse.",
)
@click.option(
    "--boundary",
    type=click.Choice(BOUNDARIES),
    default="circular",
    show_default=True,
    help="Outside an image: repeated or mirrored; valid takes only patches inside training images.",
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
    help="Memory limit of each process of the build, at least 1GB; calibration holds all keys.",
)
@click.option("--workers", type=int, help="Build in WORKERS processes of this machine, each within --memory.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Build on the workers of a Dask cluster; all must see the parent of --out under the same path.",
)
@click.option(
    "--update",
    is_flag=True,
    help="Add the images to the index at --out, as a new version built with the same options.",
)
@click.option(
    "--remove",
    "removed",
    metavar="NAME",
    multiple=True,
    help="Remove images from the index at --out, by a new version without them: the source of an image as "
    "lemmse inspect --images lists it, or a file for all of its images. May be repeated.",
)
@click.option(
    "--remove-file",
    "lists",
    metavar="LIST",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Remove the images whose names are the lines of this file.",
)
@click.option(
    "--refit",
    is_flag=True,
    help="Build the new version from the images that remain, so that nothing in it was fitted to others.",
)
@click.option(
    "--calibrate/--no-calibrate",
    "calibrated",
    default=True,
    show_default=True,
    help="Measure mode hybrid and the best pictures on held-out images, as lemmse calibrate does.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Describe the index in JSON, and report progress on stderr in lines of JSON.",
)
def build(
    sources: tuple[str, ...],
    out: Path,
    workers: int | None,
    scheduler: str | None,
    update: bool,
    removed: tuple[str, ...],
    lists: tuple[Path, ...],
    refit: bool,
    calibrated: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build an index from training images.

    SOURCE is a folder of images or one image; a .npy or .npz file of shape (N, H, W[, C]), uint8, uint16 or
    float in [0, 1]; an idx-ubyte[.gz] file (MNIST, FashionMNIST); CIFAR-10 batches; a Zarr array; or
    sample:photos, tiles of the photographs that are distributed with scikit-image.

    An interrupted build is resumed by the same command.
    """
    silence_zarr()
    removes = bool(removed or lists or refit)
    if removes and (sources or update):
        raise click.UsageError("expected no SOURCE and no --update beside --remove, --remove-file or --refit")
    if removes and not refit and (workers is not None or scheduler is not None):
        raise click.UsageError("expected --workers and --scheduler beside --remove only with --refit")
    if not removes and not sources:
        raise click.UsageError("Missing argument 'SOURCE...'.")
    names = [*removed, *(name for path in lists for name in _names_in(path))]
    with report_progress(as_json=as_json) as progress:
        with _runner(workers, scheduler) as run:
            if removes:
                more = _update_options(options, "--remove or --refit")
                before = open_unverified(out)
                remove_images(names, out, refit=refit, progress=progress, run=run, **more)
                _report_removal(before, open_unverified(out))
            elif update:
                more = _update_options(options, "--update")
                update_index(sources, out, progress=progress, run=run, **more)
            else:
                build_index(sources, out, progress=progress, run=run, **options)
        index = open_unverified(out)  # it has just been written
        if calibrated and index.manifest.calibration is None:
            try:
                with suppress(TooFewImages):
                    calibrate_index(index, seed=index.manifest.seed, progress=progress)
            except BaseException:
                click.echo(f"{out} is built, but not calibrated: run lemmse calibrate {out}", err=True)
                raise
    describe(open_unverified(out), as_json)


def _runner(workers: int | None, scheduler: str | None) -> AbstractContextManager[Runner]:
    """Return the runner for the tasks of the build."""
    if workers is not None and scheduler is not None:
        raise InvalidArgument.of("workers", "expected none beside --scheduler, whose workers they are")
    if workers is not None:
        return on_local_workers(workers)
    return nullcontext(run_serially) if scheduler is None else on_scheduler(scheduler)


def _names_in(path: Path) -> list[str]:
    """Return the lines of a file, without empty ones."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")  # a name may have other separators of lines
        return [name for line in lines if (name := line.removesuffix("\r"))]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidArgument.of(
            "remove-file", f"expected a file with a name in each line, got {path}: {reason}"
        ) from error


def _report_removal(before: Index, after: Index) -> None:
    """Say how many images are removed, and where they still are."""
    count = before.manifest.images - after.manifest.images
    if count:
        report(
            f"images removed: {count}; version {before.version} and older ones still have them: delete their "
            f"folders when nothing uses them",
            "note",
        )


def _update_options(options: Mapping[str, Any], by: str) -> dict[str, Any]:
    """Return the options of a new version; raise InvalidArgument for options that the index determines."""
    context = click.get_current_context()
    for name in options.keys() - {"memory"}:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InvalidArgument.of(
                name.replace("_", "-"), f"expected none with {by}, which builds as the index was built"
            )
    return {"memory": options["memory"]}
