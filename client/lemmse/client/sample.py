"""The command `lemmse sample`."""

from math import ceil, sqrt
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from lemmse.client.connecting import connect
from lemmse.client.explain import read_image
from lemmse.client.jobs import check_writable
from lemmse.client.progress import report_progress
from lemmse.client.reconstruct import as_mask, require_one_target
from lemmse.client.sampling import SOLVERS
from lemmse.client.server_flags import server_flags
from lemmse.contract.errors import AlreadyExists, InvalidArgument
from lemmse.index.files import WRITTEN, Layout, Metadata, Scale, create_output

__all__ = ["sample"]

_GAP = 1
"""Width of the lines between the images of a picture, in pixels."""


def _as_shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Return the numbers of HxW or DxHxW, or None if none are given."""
    if value is None:
        return None
    try:
        sizes = tuple(map(int, value.lower().split("x")))
    except ValueError:
        sizes = ()
    if len(sizes) not in (2, 3) or min(sizes) < 1:
        raise click.BadParameter(f"expected HxW, such as 32x32, or DxHxW, got {value!r}", ctx, param)
    return sizes


def _as_index(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Any:
    """Return the name in NAME, or the mapping of noise levels to names in several NAME@SIGMA."""
    if len(values) < 2 and "@" not in "".join(values):
        return values[0] if values else None
    names: dict[float, str] = {}
    for value in values:
        name, at, level = value.rpartition("@")
        try:
            least = float(level) if at else 0.0
        except ValueError as error:
            raise click.BadParameter(
                f"expected NAME@SIGMA, such as coarse@0.5, got {value!r}", ctx, param
            ) from error
        if least in names:
            raise click.BadParameter(
                f"expected one name from noise {least:g}, got {names[least]} and {value}", ctx, param
            )
        names[least] = name if at else value
    return names


@click.command
@click.option(
    "--out",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write: .png for one picture of all images; .npy, .npz, .tif or .zarr for a stack of them.",
)
@click.option(
    "--shape",
    metavar="HxW",
    callback=_as_shape,
    help="Rows and columns of an image, of any size; DxHxW for an index of volumes. Needed without "
    "--measurement.",
)
@click.option("--count", type=click.IntRange(min=1), default=16, show_default=True, help="Number of images.")
@click.option(
    "--steps",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Noise levels from the highest to the lowest.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--solver",
    type=click.Choice(SOLVERS),
    default=SOLVERS[0],
    show_default=True,
    help="One reconstruction for a step, or two and a smaller error.",
)
@server_flags
@click.option(
    "--index", "folders", metavar="DIR", multiple=True, help="Index folder to use here; or several."
)
@click.option(
    "--index-name",
    "index",
    metavar="NAME[@SIGMA]",
    multiple=True,
    callback=_as_index,
    help="Which of the indexes, where there are several; or several of them, each with the noise level from "
    "which upwards it is asked: fine, and coarse@0.5.",
)
@click.option(
    "--measurement",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A measured image: samples are drawn from the images that it allows.",
)
@click.option(
    "--mask",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=as_mask,
    help="Observed pixels of the measurement: PNG, TIFF or npy, 0 where a pixel is unknown.",
)
@click.option(
    "--sigma",
    metavar="S",
    type=click.FloatRange(0, 1e4),
    default=0.0,
    show_default=True,
    help="Noise standard deviation of the measurement, where white is 1; with 0 observed pixels are kept.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def sample(
    out: Path,
    shape: tuple[int, ...] | None,
    count: int,
    steps: int,
    seed: int,
    solver: str,
    server: str | None,
    secrets: dict[str, Any],
    folders: tuple[str, ...],
    index: Any,
    measurement: Path | None,
    mask: NDArray[Any] | None,
    sigma: float,
    overwrite: bool,
) -> None:
    """Draw images from the distribution that the training patches of an index describe.

    Noise becomes an image in steps of falling noise, each with a reconstruction in mode hybrid. The same
    arguments give the same images. The index must be of physics identity, pre-inverse identity and
    equivariance none.
    """
    require_one_target(server, folders)
    if (shape is None) == (measurement is None):
        raise click.UsageError("expected either --shape or --measurement")
    if out.suffix.lower() not in WRITTEN:
        raise InvalidArgument.of("--out", f"expected a name in {', '.join(WRITTEN)}, got {out.name}")
    check_writable("--out", out.parent)
    if out.exists() and not overwrite:
        raise AlreadyExists(f"{out} exists; --overwrite replaces it")
    targets = (server,) if server is not None else folders
    with connect(*targets, **secrets) as client, report_progress(as_json=False) as progress:
        first = index[min(index)] if isinstance(index, dict) else index
        info = client.get_index(first or "")
        if out.suffix.lower() == ".png" and info.channels not in (1, 3):
            raise InvalidArgument.of(
                "--out", f"expected .npy, .tif or .zarr for {info.channels} channels, got {out.name}"
            )
        y = None if measurement is None else read_image(measurement, info.channels, "--measurement")
        full = y.shape if y is not None else (*(shape or ()), *[info.channels] * (info.channels > 1))
        images = client.sample(
            full,
            count=count,
            steps=steps,
            seed=seed,
            solver=solver,
            y=y,
            mask=mask,
            sigma=sigma,
            index=index,
            progress=lambda done, total: progress("sample", done, total),
        )
    _write(out, images, images.shape[1] if info.patch_depth > 1 else 0)
    click.echo(out)


def _write(out: Path, images: NDArray[np.float32], depth: int) -> None:
    """Write the images, (N, H, W), (N, H, W, C) or volumes of some depth: as one picture, or as a stack."""
    if out.suffix.lower() == ".png":
        planes = images.reshape(-1, *images.shape[1 + (depth > 0) :])
        array, axes = _sheet(planes, depth or ceil(sqrt(len(planes)))), "YX"
        scale = Scale.of(np.dtype(np.uint8))
    else:
        array, axes = images, "TZYX" if depth else "TYX"
        scale = Scale.of(np.dtype(np.float32))
    layout = Layout.checked(axes + "S" * (array.ndim > len(axes)), array.shape)
    output = create_output(out, layout, scale, Metadata())
    try:
        for k, plane in enumerate(array.reshape(layout.count, *layout.plane_shape)):
            output.put(k, scale.numbers(plane))
        output.commit()
    except BaseException:
        output.discard()
        raise


def _sheet(planes: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    """Return images, (N, H, W) or (N, H, W, C), in rows and columns on white."""
    height, width = planes.shape[1:3]
    rows = ceil(len(planes) / columns)
    high, wide = rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP
    sheet = np.ones((high, wide, *planes.shape[3:]), np.float32)
    for number, plane in enumerate(planes):
        top, left = (number // columns) * (height + _GAP), (number % columns) * (width + _GAP)
        sheet[top : top + height, left : left + width] = plane
    return sheet
