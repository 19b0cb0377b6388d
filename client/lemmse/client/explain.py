"""The command `lemmse explain`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from lemmse.client.connecting import connect
from lemmse.client.explain_figure import draw_pixel, draw_region, require_drawing
from lemmse.client.explaining import (
    PixelExplanation,
    Question,
    RegionExplanation,
    explain_pixel,
    explain_region,
)
from lemmse.client.jobs import check_writable
from lemmse.client.progress import report_progress
from lemmse.client.reconstruct import as_auto_or_positive, as_mask, require_one_target
from lemmse.client.server_flags import server_flags
from lemmse.contract.errors import AlreadyExists, InvalidArgument, LemmseError
from lemmse.contract.lines import printable
from lemmse.contract.measurement import Measurement
from lemmse.contract.measurement_arguments import AUTO
from lemmse.contract.results import Contributor
from lemmse.index.files import open_stack

__all__ = ["explain", "read_image"]

_MOST = 64
"""Largest number of patches or training images that are printed and drawn."""


def _as_pixel(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return the two numbers of ROW,COLUMN, or None if none are given."""
    if value is None:
        return None
    try:
        row, column = map(int, value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected ROW,COLUMN, such as 12,30, got {value!r}", ctx, param) from error
    return row, column


def _as_region(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[slice, slice] | None:
    """Return the two ranges of ROW:ROW,COLUMN:COLUMN, or None if none are given."""
    if value is None:
        return None
    try:
        rows, columns = (slice(*map(int, part.split(":", 1))) for part in value.split(","))
        if rows.start is None or columns.start is None:
            raise ValueError
    except ValueError as error:
        raise click.BadParameter(
            f"expected ROW:ROW,COLUMN:COLUMN, such as 8:16,20:28, got {value!r}", ctx, param
        ) from error
    return rows, columns


@click.command
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--pixel", metavar="ROW,COLUMN", callback=_as_pixel, help="The pixel to explain, from 0,0.")
@click.option(
    "--region",
    metavar="ROW:ROW,COLUMN:COLUMN",
    callback=_as_region,
    help="The pixels to explain instead, from the first up to, not including, the second.",
)
@click.option(
    "--sigma",
    metavar="S",
    default=AUTO,
    show_default=True,
    callback=as_auto_or_positive,
    help="Noise standard deviation, where white is 1, or auto to estimate it.",
)
@server_flags
@click.option(
    "--index", "folders", metavar="DIR", multiple=True, help="Index folder to use here; or several."
)
@click.option("--index-name", metavar="NAME", help="Which of the indexes, where there are several.")
@click.option(
    "--mask",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=as_mask,
    help="Observed pixels: PNG, TIFF or npy, 0 where a pixel is to be ignored.",
)
@click.option(
    "--top",
    type=click.IntRange(1, _MOST),
    default=11,
    show_default=True,
    help="Training patches of a pixel, or training images of a region, to name.",
)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Figure to draw: .png, .pdf or .svg; needs matplotlib.",
)
@click.option(
    "--context",
    type=click.IntRange(0, 64),
    default=8,
    show_default=True,
    help="Pixels around each patch that the figure shows.",
)
@click.option("--overwrite", is_flag=True, help="Replace the figure if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, and progress on stderr.")
def explain(
    image: Path,
    pixel: tuple[int, int] | None,
    region: tuple[slice, slice] | None,
    sigma: str | float,
    server: str | None,
    secrets: dict[str, Any],
    folders: tuple[str, ...],
    index_name: str | None,
    mask: NDArray[Any] | None,
    top: int,
    out: Path | None,
    context: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Name the training patches that make a pixel of a reconstruction, or the training images of a region.

    The weights are those of LE-MMSE in mode exact, whose answer is the mean of the training patches with
    these weights. A region takes a sum over all patches for each of its pixels.
    """
    require_one_target(server, folders)
    if (pixel is None) == (region is None):
        raise click.UsageError("expected either --pixel or --region")
    if out is not None:
        require_drawing(out)
        check_writable("--out", out.parent)
        if out.exists() and not overwrite:
            raise AlreadyExists(f"{out} exists; --overwrite replaces it")
    targets = (server,) if server is not None else folders
    with connect(*targets, **secrets) as client, report_progress(as_json=as_json) as progress:
        index = client.get_index(index_name or "")
        y = read_image(image, index.channels, "IMAGE")
        measurement = Measurement.checked(y, sigma=sigma, mask=mask)
        if sigma == AUTO:  # of the whole image: questions are about parts of it
            measurement = measurement.with_noise(client.estimate_noise(y, mask=mask, index=index.name))
        question = Question(client=client, index=index, measurement=measurement)
        if pixel is not None:
            found = explain_pixel(question, pixel, top=top, context=context)
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                draw_pixel(out, question, found, context)
            click.echo(json.dumps(_pixel_object(found)) if as_json else _pixel_text(found))
        elif region is not None:
            shares = explain_region(question, region, top=top, context=context, progress=progress)
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                draw_region(out, question, shares, context)
            click.echo(json.dumps(_region_object(shares)) if as_json else _region_text(shares))


def read_image(path: Path, channels: int, argument: str) -> NDArray[Any]:
    """Return the only plane of a file, in intensities; masked where it was not observed."""
    try:
        with open_stack(path) as stack:
            stack = stack.joined(channels)
            if stack.layout.channels != channels:
                raise InvalidArgument(
                    f"expected {channels} channels, as the index has, got {stack.layout.channels} "
                    f"({stack.layout.axes} {stack.layout.shape})"
                )
            numbers = stack.only()
            missing = stack.missing(numbers)
            y = stack.scale.intensities(numbers)
    except LemmseError as error:
        raise click.BadParameter(f"{path}: {error}", param_hint=argument) from error
    return y if missing is None else np.ma.masked_array(y, missing)


def _pixel_object(found: PixelExplanation) -> dict[str, Any]:
    return {
        "pixel": found.pixel,
        "value": found.value,
        "spread": found.spread,
        "ess": found.ess,
        "contributors": [_contributor(one) for one in found.contributors],
    }


def _region_object(found: RegionExplanation) -> dict[str, Any]:
    return {
        "region": [[part.start, part.stop] for part in found.region],
        "shares": [
            {
                "image": one.image,
                "source": one.source,
                "share": one.share,
                "pixel": one.pixel,
                "heaviest": _contributor(one.heaviest),
            }
            for one in found.shares
        ],
        "others": found.others,
        "source": found.source.tolist(),
    }


def _contributor(contributor: Contributor) -> dict[str, Any]:
    return {name: value for name, value in asdict(contributor).items() if name != "crop"}


def _pixel_text(found: PixelExplanation) -> str:
    """Return a line for the pixel, and one for each contributor."""
    value, spread = (" ".join(f"{x:.4f}" for x in numbers) for numbers in (found.value, found.spread))
    lines = [f"value {value}, spread {spread}, effective sample size {found.ess:.1f}"]
    lines += [f"{one.weight:8.2%}  {_place(one)}" for one in found.contributors]
    return "\n".join(lines)


def _region_text(found: RegionExplanation) -> str:
    """Return a line for each training image, and one for all others."""
    lines = [f"{one.share:8.2%}  {printable(one.source)}" for one in found.shares]
    return "\n".join([*lines, f"{found.others:8.2%}  all others"])


def _place(one: Contributor) -> str:
    turned = "" if one.symmetry == "identity" else f"  {one.symmetry}"
    return f"{printable(one.source)}  row {one.row}, column {one.column}{turned}"
