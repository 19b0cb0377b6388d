"""The command `lemmse reconstruct`."""

import json
import math
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from lemmse.client.connecting import connect
from lemmse.client.exits import BAD_INPUT, FAILED, exit_status, report
from lemmse.client.flags import option_flags
from lemmse.client.interface import Client
from lemmse.client.jobs import Job, plan
from lemmse.client.progress import report_progress
from lemmse.client.server_flags import server_flags
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.results import Result
from lemmse.index.images.files import as_stored, read, read_array, write

__all__ = ["reconstruct"]


def _as_sigma(ctx: click.Context, param: click.Parameter, value: str) -> float | NDArray[np.float32]:
    """Return sigma as a positive number, or the map in a file."""
    try:
        number = float(value)
    except ValueError:
        return _read_sigma_map(ctx, param, Path(value))
    if not 0 < number < math.inf:
        raise click.BadParameter(f"expected a number > 0, got {number:g}", ctx, param)
    return number


def _read_sigma_map(ctx: click.Context, param: click.Parameter, path: Path) -> NDArray[np.float32]:
    try:
        stored = read(path)
        if stored.dtype.kind != "f":
            raise InvalidArgument(f"expected floats, in intensities of [0, 1], got {stored.dtype}")
    except LemmseError as error:
        raise click.BadParameter(
            f"expected a number > 0 or a map of them; {path}: {error}", ctx, param
        ) from error
    return stored


def _as_mask(ctx: click.Context, param: click.Parameter, value: Path | None) -> NDArray[Any] | None:
    """Return the mask in a file, or None if no file is given."""
    try:
        return None if value is None else read_array(value)
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
    required=True,
    callback=_as_sigma,
    help="Noise standard deviation, where white is 1: a number, or a TIFF or npy file of one for each pixel.",
)
@click.option(
    "--mask",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=_as_mask,
    help="Observed pixels, for all inputs: PNG, TIFF or npy, 0 where a pixel is to be ignored.",
)
@option_flags
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
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Reconstruct image files (PNG, TIFF, npy) and folders of them.

    Each output has the format and bit depth of its input, and maps are in its range: for 8-bit images the
    error is in steps of 1/255 and the variance in squared steps. Maps of sigma and masks need an index of
    physics identity, pre-inverse identity and equivariance none. If a file fails, the others are still
    processed: the exit status is 1 if some files failed, and 2 if all failures are bad input.
    """
    if server is not None and folders:
        raise click.UsageError("expected either --server or --index, got both")
    if server is None and not folders and not os.environ.get("LEMMSE_SERVER"):
        raise click.UsageError("expected either --server or --index, got neither, and no LEMMSE_SERVER")
    if not folders and scheduler is not None:
        raise click.UsageError("expected --scheduler with --index only")
    jobs = plan(inputs, out, maps, overwrite=overwrite)
    targets = (server,) if server is not None else folders
    failures: list[Exception] = []
    with (
        connect(*targets, scheduler=scheduler, **secrets) as client,
        report_progress(as_json=as_json) as progress,
    ):
        if index_name is None and options["quality"] == "best":
            client.list_indexes()  # any of them may be the best
        else:
            client.get_index(index_name or "")
        progress("reconstruct", 0, len(jobs))
        outcomes = _outcomes(client, jobs, index=index_name, maps=maps, **options)
        for done, (job, outcome) in enumerate(outcomes, 1):
            progress("reconstruct", done, len(jobs))
            if isinstance(outcome, Exception):
                failures.append(outcome)
                report(f"{job.source}: {outcome}")
            if as_json:
                click.echo(json.dumps(_description(job, outcome)))
            elif not isinstance(outcome, Exception):
                click.echo(job.image)
    if failures:
        nothing_done = len(failures) == len(jobs)
        only_bad_input = all(exit_status(error) == BAD_INPUT for error in failures)
        sys.exit(BAD_INPUT if nothing_done and only_bad_input else FAILED)


def _outcomes(
    client: Client, jobs: Sequence[Job], *, maps: frozenset[str], **options: Any
) -> Iterator[tuple[Job, Result | Exception]]:
    """Process the jobs, and yield each with its result, after its files are written, or with its error.

    Results are in the order of the jobs; errors of files that cannot be read are yielded as soon as they
    occur.
    """
    unreadable: deque[tuple[Job, LemmseError]] = deque()
    sent: deque[tuple[Job, np.dtype[Any]]] = deque()

    def images() -> Iterator[NDArray[Any]]:
        for job in jobs:
            try:
                stored = read(job.source)
            except LemmseError as error:
                unreadable.append((job, error))
            else:
                sent.append((job, stored.dtype))
                yield stored

    with closing(client.reconstruct_many(images(), maps=maps, **options)) as outcomes:
        for outcome in outcomes:
            while unreadable:
                yield unreadable.popleft()
            job, dtype = sent.popleft()
            try:
                if isinstance(outcome, Result):
                    _write(job, outcome, dtype)
            except OSError as error:
                yield job, error
            else:
                yield job, outcome
    yield from unreadable


def _write(job: Job, result: Result, dtype: np.dtype[Any]) -> None:
    for name, path in job.maps.items():
        write(path, getattr(result, name))
    write(job.image, as_stored(result.image, dtype))


def _description(job: Job, outcome: Result | Exception) -> dict[str, Any]:
    """Return the JSON object that describes the outcome of a job."""
    if isinstance(outcome, Exception):
        return {"input": str(job.source), "error": str(outcome), "code": getattr(outcome, "code", "UNKNOWN")}
    return {
        "input": str(job.source),
        "output": str(job.image),
        "maps": {name: str(path) for name, path in job.maps.items()},
        **asdict(outcome.diagnostics),
    }
