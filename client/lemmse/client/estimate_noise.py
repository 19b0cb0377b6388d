"""The command `lemmse estimate-noise`."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from lemmse.client.connecting import connect
from lemmse.client.exits import BAD_INPUT, FAILED, exit_status, report
from lemmse.client.interface import Client
from lemmse.client.reconstruct import as_axes, as_mask, as_range, nan_flag, noise_flag, require_one_target
from lemmse.client.server_flags import server_flags
from lemmse.client.slabs import Slabs, middle_planes
from lemmse.client.work import Reading, read_plane, read_planes, with_channels
from lemmse.contract.errors import LemmseError
from lemmse.contract.lines import one_line
from lemmse.contract.results import NoiseEstimate
from lemmse.index.files import open_stack

__all__ = ["estimate_noise"]


@click.command("estimate-noise")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@server_flags
@click.option("--index", "folder", metavar="DIR", help="Index folder to use here.")
@click.option("--index-name", metavar="NAME", help="Which of the server's indexes, where there are several.")
@click.option(
    "--mask",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=as_mask,
    help="Observed pixels, for all planes: PNG, TIFF or npy, 0 where a pixel is to be ignored.",
)
@noise_flag
@nan_flag
@click.option(
    "--axes",
    metavar="LETTERS",
    callback=as_axes,
    help="Axes of the images, such as TYX, instead of those that the files state.",
)
@click.option(
    "--range",
    "stated",
    metavar="LOW,HIGH",
    callback=as_range,
    help="Numbers of the images that stand for black and white, as in reconstruct.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each plane.")
def estimate_noise(
    images: Sequence[Path],
    server: str | None,
    secrets: dict[str, Any],
    folder: str | None,
    index_name: str | None,
    mask: NDArray[Any] | None,
    noise: str,
    nan: str,
    axes: str | None,
    stated: tuple[float, float] | None,
    as_json: bool,
) -> None:
    """Estimate the standard deviation of the noise in images, where white is 1.

    Prints a line for each plane, or for each volume if the index is of volumes: one number, or one for each
    channel if they differ, each with its standard error; of Poisson-Gaussian noise that in the dark, and the
    gain. The index must be of physics identity and pre-inverse identity. Exit status: 1 if some images
    failed, 2 if all failures are bad input.
    """
    require_one_target(server, () if folder is None else (folder,))
    asked = {"noise": noise, "nan": nan, "index": index_name}
    failures: list[Exception] = []
    with connect(server if folder is None else folder, **secrets) as client:
        index = client.get_index(index_name or "")
        reading = Reading(
            axes=axes,
            stated=stated,
            dtype=None,
            channels=index.channels,
            mask=mask,
            sigma=1.0,
            slabs=None if index.patch_depth == 1 else Slabs(0, circular=False),
        )
        for path in images:
            try:
                for line in _lines(client, path, reading, asked, as_json=as_json):
                    click.echo(line)
            except (LemmseError, OSError) as error:
                report(f"{path}: {one_line(error)}")
                failures.append(error)
    if failures:
        nothing_done = len(failures) == len(images)
        only_bad_input = all(exit_status(error) == BAD_INPUT for error in failures)
        sys.exit(BAD_INPUT if nothing_done and only_bad_input else FAILED)


def _lines(
    client: Client, path: Path, reading: Reading, asked: dict[str, Any], *, as_json: bool
) -> Iterator[str]:
    """Yield a line for each plane of a file, or for each of its volumes."""
    volumes, mask = reading.slabs is not None, reading.mask  # of all planes
    with open_stack(path, axes=reading.axes, stated=reading.stated, volumes=volumes) as opened:
        stack = with_channels(opened, reading.channels)
        places = stack.layout.volumes().tolist() if volumes else range(len(stack))
        for number, place in enumerate(places):
            if volumes:
                y = read_planes(stack, middle_planes(stack.layout, place), reading)
                if reading.mask is not None:
                    one = np.asarray(reading.mask)
                    mask = np.broadcast_to(one, (len(y), *one.shape))
            else:
                y = read_plane(stack, place, reading)
            estimate = client.estimate_noise(y, mask=mask, **asked)
            if as_json:
                what = "volume" if volumes else "plane"
                yield json.dumps({"input": str(path), what: number, **asdict(estimate)})
            else:
                yield f"{path}{f'[{number}]' if len(places) > 1 else ''}: {_text(estimate)}"


def _text(estimate: NoiseEstimate) -> str:
    pairs = zip(estimate.sigma, estimate.sigma_error, strict=True)
    sigmas = ", ".join(f"{sigma:.4g} ± {error:.1g}" for sigma, error in pairs)
    if estimate.gain is None:
        return sigmas
    return f"{sigmas}, gain {estimate.gain:.4g} ± {estimate.gain_error:.1g}"
