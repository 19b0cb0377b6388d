"""The command `lemmse build`."""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lemmse.builder.cluster import on_local_workers, on_scheduler
from lemmse.builder.sizes import parse_bytes
from lemmse.builder.tables import describe
from lemmse.builder.zarr_errors import silence_zarr
from lemmse.client.exits import report
from lemmse.client.file_flags import as_axes, as_range
from lemmse.client.progress import report_progress
from lemmse.contract.errors import InvalidArgument, TooFewImages
from lemmse.contract.lines import one_line
from lemmse.index import Index
from lemmse.index import build as build_index
from lemmse.index import remove as remove_images
from lemmse.index import update as update_index
from lemmse.index.building import AUGMENTS, EQUIVARIANCES, Runner, run_serially
from lemmse.index.images import BOUNDARIES
from lemmse.index.reading import open_unverified

__all__ = ["build"]

_OF_UPDATES = {"axes", "memory", "range", "roi"}
"""Options of an update: those that the index does not determine."""


def _as_patch_size(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Return the number of planes and the side of patches, given as P or PZxPxP."""
    try:
        match [int(word) for word in value.lower().split("x")]:
            case [side]:
                return 1, side
            case [depth, side, other] if side == other:
                return depth, side
    except ValueError:
        pass
    raise click.BadParameter(
        f"expected a side, such as 5, or planes and twice a side, such as 3x5x5, got {value!r}", ctx, param
    )


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder to create; its name is the index's."
)
@click.option(
    "--patch-size",
    metavar="P|PZxPxP",
    default="5",
    show_default=True,
    callback=_as_patch_size,
    help="Side of the patches, in pixels; for volumes the number of their planes, odd, and twice their side, "
    "such as 3x5x5.",
)
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
    "--noise",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Correlated noise: a .npy (h, w) of its power spectrum, or noise-only or flat frames from which that"
    " is estimated, such as a TIFF stack or a folder.  [default: white noise]",
)
@click.option(
    "--noise-roi",
    metavar="ROW:ROW,COLUMN:COLUMN",
    help="A region that is flat in the frames of --noise; one is then enough, such as a noisy image.",
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
@click.option(
    "--stride",
    metavar="N",
    default=1,
    show_default=True,
    help="Take only the patches around every N-th row and column, 1 in N*N, of large training images.",
)
@click.option(
    "--axes",
    metavar="LETTERS",
    callback=as_axes,
    help="Axes of the sources, such as TZYX, instead of those that the files state: each plane YX is a "
    "training image, S are the channels of a pixel.",
)
@click.option(
    "--range",
    metavar="LOW,HIGH",
    callback=as_range,
    help="Numbers of the sources that stand for black and white; by default 0 and the largest of their "
    "bits, or 0 and 1 for floats.",
)
@click.option(
    "--roi",
    metavar="ROW:ROW,COLUMN:COLUMN",
    help="Use only these rows and columns of each image, as slices of Python: 0:512,-512:.",
)
@click.option("--limit", type=int, help="Use only the first LIMIT images, or volumes.")
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

    SOURCE is a folder of images, or one image or TIFF stack; a .npy or .npz file of shape (N, H, W[, C]),
    uint8, uint16 or float in [0, 1]; an idx-ubyte[.gz] file (MNIST, FashionMNIST); CIFAR-10 batches; a Zarr
    array or OME-Zarr; HDF5, as FILE.h5 or FILE.h5:/PATH/OF/DATASET; or sample:photos, tiles of the
    photographs that are distributed with scikit-image. With --patch-size PZxPxP, it is a file of volumes,
    or a folder of them: TIFF or OME-Zarr with an axis Z or T, or an array (D, H, W), (N, D, H, W) or
    (N, D, H, W, C) in a .npy or .npz file or Zarr.

    An interrupted build is resumed by the same command.
    """
    silence_zarr()
    notice = partial(report, kind="note")
    options["patch_depth"], options["patch_size"] = options["patch_size"]
    removes = bool(removed or lists or refit)
    if removes and (sources or update):
        raise click.UsageError("expected no SOURCE and no --update beside --remove, --remove-file or --refit")
    if removes and not refit and (workers is not None or scheduler is not None):
        raise click.UsageError("expected --workers and --scheduler beside --remove only with --refit")
    if not removes and not sources:
        raise click.UsageError("Missing argument 'SOURCE...'.")
    names = [*removed, *(name for path in lists for name in _names_in(path))]
    with report_progress(as_json=as_json) as progress:
        try:
            with _runner(workers, scheduler) as run:
                if removes:
                    more = _update_options(options, "--remove or --refit", {"memory"})
                    before = open_unverified(out)
                    remove_images(names, out, refit=refit, progress=progress, run=run, **more)
                    _report_removal(before, open_unverified(out))
                elif update:
                    more = _update_options(options, "--update", _OF_UPDATES)
                    update_index(sources, out, progress=progress, run=run, notice=notice, **more)
                else:
                    build_index(sources, out, progress=progress, run=run, notice=notice, **options)
        except OSError as error:
            raise click.ClickException(
                f"{one_line(error)}; once that is mended, the same command goes on with {out}"
            ) from error
        index = open_unverified(out)  # it has just been written
        if calibrated and index.manifest.calibration is None:
            from lemmse.calibration import calibrate_index  # torch, which a build does not need, loads slowly

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


def _update_options(options: Mapping[str, Any], by: str, free: Collection[str]) -> dict[str, Any]:
    """Return the free options of a new version; raise InvalidArgument for those that the index determines."""
    context = click.get_current_context()
    for name in options.keys() - set(free):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InvalidArgument.of(
                name.replace("_", "-"), f"expected none with {by}, which builds as the index was built"
            )
    return {name: options[name] for name in free}
