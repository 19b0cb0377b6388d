"""The command `lemmse reconstruct`."""

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from lemmse.client.connecting import connect
from lemmse.client.exits import BAD_INPUT, FAILED, exit_status, report
from lemmse.client.file_flags import as_axes, as_range
from lemmse.client.flags import option_flags
from lemmse.client.interface import Client
from lemmse.client.jobs import Job, check_writable, plan
from lemmse.client.journal import Journal
from lemmse.client.progress import report_progress
from lemmse.client.reports import failure, write_report
from lemmse.client.running import run
from lemmse.client.server_flags import server_flags
from lemmse.client.slabs import Slabs
from lemmse.client.tiles import halo_of, widest_aggregate
from lemmse.client.work import Done, Reading
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.lines import one_line
from lemmse.contract.measurement_arguments import AUTO, GAUSSIAN, NAN, NOISES, POISSON_GAUSSIAN
from lemmse.contract.results import Diagnostics, IndexInfo
from lemmse.index.files import Plane, read_map, read_mask

__all__ = [
    "as_auto_or_positive",
    "as_axes",
    "as_mask",
    "as_range",
    "nan_flag",
    "noise_flag",
    "reconstruct",
    "require_one_target",
]

nan_flag = click.option(
    "--nan",
    type=click.Choice(NAN),
    default=NAN[0],
    show_default=True,
    help="What NaN means: a mistake, or a pixel that was not observed.",
)


noise_flag = click.option(
    "--noise",
    type=click.Choice(NOISES),
    default=GAUSSIAN,
    show_default=True,
    is_eager=True,
    help="Kind of the noise: of one standard deviation, or of variance gain · x + sigma² at intensity x.",
)


def _as_gain(ctx: click.Context, param: click.Parameter, value: str) -> str | float:
    """Return the gain as "auto" or a positive number."""
    if value != AUTO and ctx.params["noise"] == GAUSSIAN:
        raise click.BadParameter(f"expected --noise {POISSON_GAUSSIAN} with it", ctx, param)
    return as_auto_or_positive(ctx, param, value)


def as_auto_or_positive(ctx: click.Context, param: click.Parameter, value: str) -> str | float:
    """Return "auto" or a positive number."""
    if value == AUTO:
        return AUTO
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise click.BadParameter(f"expected auto or a number > 0, got {value}", ctx, param)
    return number


def _as_sigma(ctx: click.Context, param: click.Parameter, value: str) -> str | float | NDArray[Any] | Plane:
    """Return sigma as "auto", a positive number, or the map in a file."""
    if value == AUTO:
        return AUTO
    try:
        number = float(value)
    except ValueError:
        return _read_sigma_map(ctx, param, Path(value))
    bound = "> 0" if ctx.params["noise"] == GAUSSIAN else ">= 0"
    if not 0 <= number < math.inf or (number == 0 and bound == "> 0"):
        raise click.BadParameter(f"expected a number {bound}, got {number:g}", ctx, param)
    return number


def _read_sigma_map(ctx: click.Context, param: click.Parameter, path: Path) -> NDArray[Any] | Plane:
    try:
        return read_map(path)
    except LemmseError as error:
        raise click.BadParameter(
            f"expected auto, a number > 0 or a map of them; {path}: {error}", ctx, param
        ) from error


def as_mask(ctx: click.Context, param: click.Parameter, value: Path | None) -> NDArray[Any] | Plane | None:
    """Return the mask in a file, or None if no file is given."""
    try:
        return None if value is None else read_mask(value)
    except LemmseError as error:
        raise click.BadParameter(f"{value}: {error}", ctx, param) from error


@click.command
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="PATH",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder to write to; for a single file also the file to write.",
)
@server_flags
@click.option(
    "--index", "folders", metavar="DIR", multiple=True, help="Index folder to use here; or several."
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="With --index, hold the patches on the workers of a Dask cluster, which all see the folders under "
    "the same paths.",
)
@click.option("--index-name", metavar="NAME", help="Which of the indexes, where there are several.")
@click.option(
    "--sigma",
    metavar="S",
    default=AUTO,
    show_default=True,
    callback=_as_sigma,
    help="Noise standard deviation, where white is 1: a number, a TIFF or npy file of one for each pixel, or "
    "auto to estimate it for each plane. Of Poisson-Gaussian noise, that in the dark.",
)
@noise_flag
@click.option(
    "--gain",
    metavar="G",
    default=AUTO,
    show_default=True,
    callback=_as_gain,
    help="Gain of Poisson-Gaussian noise, where white is 1: a number, or auto to estimate it for each plane.",
)
@click.option(
    "--mask",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=as_mask,
    help="Observed pixels, for all planes: PNG, TIFF or npy, 0 where a pixel is to be ignored.",
)
@nan_flag
@click.option(
    "--axes",
    metavar="LETTERS",
    callback=as_axes,
    help="Axes of the inputs, such as TZCYX, instead of those that the files state: planes YX are "
    "reconstructed one by one, or together in Z (without Z, in T) if the patches of the index have several "
    "planes; S are the channels of a pixel.",
)
@click.option(
    "--range",
    "stated",
    metavar="LOW,HIGH",
    callback=as_range,
    help="Numbers of the inputs that stand for black and white; by default 0 and the largest of their "
    "bits, or 0 and 1 for floats.",
)
@click.option(
    "--dtype",
    type=click.Choice(["uint8", "uint16", "float16", "float32", "float64"]),
    help="Element type of the outputs, from black to white in all of its range; by default that of each "
    "input, in its range.",
)
@option_flags
@click.option(
    "--journal",
    "journal_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Note finished files here: with the same file, a stopped command goes on where it was.",
)
@click.option(
    "--report",
    "report_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the failures to this file in the end, as JSON.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON object for each input, and progress on stderr.",
)
def reconstruct(
    inputs: Sequence[Path],
    out: Path,
    server: str | None,
    secrets: dict[str, Any],
    folders: tuple[str, ...],
    scheduler: str | None,
    index_name: str | None,
    maps: frozenset[str],
    axes: str | None,
    stated: tuple[float, float] | None,
    dtype: str | None,
    journal_file: Path | None,
    report_file: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Reconstruct images, stacks of them (TIFF, PNG, JPEG, npy, npz, Zarr), and folders.

    The noise is estimated for each plane, or volume, unless --sigma states it; that takes an index of physics
    identity and pre-inverse identity.

    Each output has the format, element type, range and axes of its input (JPEG and others that lose become
    PNG), and maps are in its range: for 8-bit images the error is in steps of 1/255 and the variance in
    squared steps. Maps of sigma and masks need an index of physics identity, pre-inverse identity and
    equivariance none. If a file fails, the others are still processed: the exit status is 1 if some files
    failed, and 2 if all failures are bad input.
    """
    require_one_target(server, folders)
    if not folders and scheduler is not None:
        raise click.UsageError("expected --scheduler with --index only")
    for argument, path in (("--report", report_file), ("--journal", journal_file)):
        if path is not None:
            check_writable(argument, path.parent)
    journal = (
        None if journal_file is None else click.get_current_context().with_resource(Journal(journal_file))
    )
    finished = [] if journal is None else journal.done()
    replaceable = set() if journal is None else journal.outputs()
    planned = plan(inputs, out, maps, overwrite=overwrite, done=finished, replaceable=replaceable)
    jobs = planned.jobs
    for note in planned.notes:
        report(note, "note")
    known = 1.0 if isinstance(options["sigma"], str) else options["sigma"]
    largest = max(float(np.max(part)) for part in _parts(known))
    if (sigma := min(float(np.mean(part)) for part in _parts(known))) > 1:
        report(
            f"--sigma is in intensities of [0, 1], and {sigma:.6g} drowns an image; {sigma:.6g} of 255 is "
            f"{sigma / 255:.6g}",
            "warning",
        )
    if options["noise"] == POISSON_GAUSSIAN:
        gain = 1.0 if isinstance(options["gain"], str) else options["gain"]
        largest = math.hypot(largest, math.sqrt(gain))  # at white
    targets = (server,) if server is not None else folders
    outcomes: list[tuple[Job, Done | Exception]] = []
    try:
        with (
            connect(*targets, scheduler=scheduler, **secrets) as client,
            report_progress(as_json=as_json) as progress,
        ):
            indexes = _indexes(client, index_name, options["quality"])
            if journal is not None:
                journal.begin(_settings(indexes, axes, stated, dtype, maps, options))
            channels = {index.channels for index in indexes}
            reading = Reading(
                axes=axes,
                stated=stated,
                dtype=None if dtype is None else np.dtype(dtype),
                channels=channels.pop() if len(channels) == 1 else None,
                mask=options["mask"],
                sigma=largest,
                slabs=_slabs(indexes, options),
            )
            progress("reconstruct", 0, len(jobs))
            asked = options | {"index": index_name, "maps": maps, "progress": progress, "journal": journal}
            for job, outcome in run(client, jobs, reading, **asked):
                outcomes.append((job, outcome))
                progress("reconstruct", len(outcomes), len(jobs))
                if isinstance(outcome, Exception):
                    report(f"{job.source}: {one_line(outcome)}")
                elif journal is not None:
                    journal.add(job, done=True)
                if as_json:
                    click.echo(json.dumps(_description(job, outcome)))
                elif isinstance(outcome, Done):
                    click.echo(job.image)
    finally:
        if report_file is not None:
            write_report(report_file, jobs, outcomes, already=len(finished))
    failures = [outcome for _, outcome in outcomes if isinstance(outcome, Exception)]
    if failures:
        nothing_done = len(failures) == len(jobs)
        only_bad_input = all(exit_status(error) == BAD_INPUT for error in failures)
        sys.exit(BAD_INPUT if nothing_done and only_bad_input else FAILED)


def require_one_target(server: str | None, folders: Sequence[str]) -> None:
    """Raise UsageError unless there is either a server or an index folder."""
    if server is not None and folders:
        raise click.UsageError("expected either --server or --index, got both")
    if server is None and not folders and not os.environ.get("LEMMSE_SERVER"):
        raise click.UsageError("expected either --server or --index, got neither, and no LEMMSE_SERVER")


def _indexes(client: Client, name: str | None, quality: str) -> list[IndexInfo]:
    """Return the indexes that may answer."""
    if name is None and quality == "best":
        return client.list_indexes()
    return [client.get_index(name or "")]


def _slabs(indexes: Sequence[IndexInfo], options: Mapping[str, Any]) -> Slabs | None:
    """Return how volumes are cut into slabs; None if the indexes are of images."""
    depths = {index.patch_depth for index in indexes}
    if depths <= {1}:
        return None
    circular = {index.boundary == "circular" for index in indexes}
    if 1 in depths or len(circular) > 1:
        raise InvalidArgument.of(
            "--index-name",
            "expected one of the indexes, since they differ in whether they are of volumes, or circular",
        )
    aggregate = widest_aggregate(options["aggregate"], options["quality"])
    counts = options["noise"] == POISSON_GAUSSIAN
    return Slabs(halo_of(max(depths) // 2, aggregate=aggregate, counts=counts), circular.pop())


def _settings(
    indexes: Sequence[IndexInfo],
    axes: str | None,
    stated: tuple[float, float] | None,
    dtype: str | None,
    maps: frozenset[str],
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return what the numbers in the outputs depend on beside the inputs, for the journal."""
    given = {name: _digest(value) for name, value in options.items()}
    return given | {
        "indexes": sorted(index.digest for index in indexes),
        "axes": axes,
        "range": None if stated is None else list(stated),
        "dtype": dtype,
        "maps": sorted(maps),
    }


def _parts(value: Any) -> Iterable[Any]:
    """Return the parts of a large map in a file; what is in memory is one part."""
    return value.bands() if isinstance(value, Plane) else [value]


def _digest(value: Any) -> Any:
    """Return a value as JSON stores it; an array by its SHA-256."""
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, np.ndarray | Plane):
        return value
    digest = hashlib.sha256(f"{value.dtype} {value.shape} ".encode())
    for part in _parts(value):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _description(job: Job, outcome: Done | Exception) -> dict[str, Any]:
    """Return the JSON object that describes the outcome of a job."""
    if isinstance(outcome, Exception):
        return failure(job, outcome)
    return {
        "input": str(job.source),
        "output": str(job.image),
        "maps": {name: str(path) for name, path in job.maps.items()},
        "planes": outcome.planes,
        **_summary(outcome.diagnostics),
    }


def _summary(parts: Sequence[Diagnostics]) -> dict[str, Any]:
    """Return the diagnostics of a file: of its first part, but all seconds, and the least accuracies."""
    summary = asdict(parts[0])
    summary["seconds"] = sum(part.seconds for part in parts)
    summary["keys_touched"] = sum(part.keys_touched for part in parts) / len(parts)
    for name in ("expected_accuracy_db", "estimated_accuracy_db", "certified", "expected_psnr_db"):
        known = [value for part in parts if (value := getattr(part, name)) is not None]
        summary[name] = min(known, default=None)
    return summary
